"""What builds environments: one module per engine."""
