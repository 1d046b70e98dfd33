"""How the embedded dataset's landscapes are drawn."""
