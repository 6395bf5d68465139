"""The gateway: decides which worker answers a request, and measures what users feel."""
