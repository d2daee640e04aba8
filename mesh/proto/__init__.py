"""Generated stubs of the node API and of the SPIFFE Workload API; `make proto` writes them."""
