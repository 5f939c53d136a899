"""HTTP with aiohttp, which is imported in no other folder: the client, its connections, proxies and errors."""
