"""The bus: the port (`bus`), the paho adapter (`mqtt`), the in-process twin (`memory`), a local broker (`local`)."""
