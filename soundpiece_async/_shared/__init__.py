"""One account, many processes: the stores of the shared gate and of the shared news, and what runs them."""
