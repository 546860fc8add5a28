"""What type checkers say of code that uses Interlock: mypy and pyright, by `make lint`."""
