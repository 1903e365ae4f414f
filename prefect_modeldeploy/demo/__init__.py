"""The demo: a real model, real requests, and two rollouts on this machine."""
