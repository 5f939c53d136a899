"""HTTP with aiohttp's client, which only this folder uses: requests, connections, proxies and errors."""
