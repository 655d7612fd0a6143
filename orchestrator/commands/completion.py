"""``linguabus completion``: commands and options completed in a shell."""

from broker.completion import completion_command

command = completion_command("linguabus")
