"""Who gets which share of the requests, and what each arm experienced.

endpoint, dataplane     the desired state: endpoints, arms, upstreams, servers
gateway                 brings HAProxy to that state and keeps it running
  haproxy_config        ... the state in HAProxy's words
  process, binary       ... the process: found, started, adopted, reloaded, stopped
  admin, runtime        ... what changes without a reload
arm, envelope           a deployment at a provider: address, credentials, TLS, how it wraps bodies
adapter                 translates bodies for those that wrap them, in a process of its own
activator               holds requests while a deployment wakes
access_log, outcomes    what happened to a request, and whether that counts as a failure: the one table
windows, sparse         counts by arm and split, exactly once, in SQLite
router                  the interface that rollouts use
"""
