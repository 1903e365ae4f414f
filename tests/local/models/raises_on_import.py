raise RuntimeError("the weights are corrupt")
