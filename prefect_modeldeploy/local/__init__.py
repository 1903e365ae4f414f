"""The embedded serving node: real model processes behind a real proxy, on this machine.

    client, autostart    for those who use a node: the control API's client, and how a node is found or started
    node, service, api   the node's process, its parts, its control API
    supervisor, keeper   what is wanted of each deployment, and the task that makes it so
    replicas, launcher   replica processes: their life, and how they start; `processes` and `probe` watch them
    programs             what replicas and zygotes run, under their own interpreter; imports nothing of this package
    arms, tokens, tls    deployments at providers: their credentials, renewed, and their certificates, checked
    hop                  the process that translates bodies for some of them
    store, home, logs    what is on disk

Nothing here imports Prefect: the node is a small process that starts fast.
"""
