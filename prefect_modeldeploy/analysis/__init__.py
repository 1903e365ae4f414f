"""Pure statistics: counts in, verdict out."""
