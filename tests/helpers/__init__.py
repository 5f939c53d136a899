"""What tests share: servers that misbehave, stores, checks that nothing is left; import as `helpers.<module>`."""
