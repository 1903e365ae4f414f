"""The node's side of the data plane: one writer to the gateway, requests held while deployments wake, measurements."""

import logging

_log = logging.getLogger(__name__)
