"""Helpers of the tests: fake servers, stores, sample data, leak checks. Import them as `helpers.<module>`."""
