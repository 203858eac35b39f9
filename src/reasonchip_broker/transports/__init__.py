"""The network: listeners, dialling, live connections. The broker knows only `server_transport`."""
