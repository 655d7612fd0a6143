"""The commands of ``linguabus``, one module each, imported when they are run."""
