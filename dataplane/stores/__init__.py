"""Where leases come from: one Protocol (base), one module per store."""
