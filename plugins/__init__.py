"""The zoo: one module per algorithm or reward family, each registered by an entry point."""
