"""Who gets which share of the requests, and what each arm experienced."""
