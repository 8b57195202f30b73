"""The clauses of docs/contract.md as tests, a module for each part of the contract."""
