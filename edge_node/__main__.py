"""``python -m edge_node``: the same as the ``linguabus-node`` command."""

from edge_node.cli import main

main()
