"""The parts of the development cluster."""
