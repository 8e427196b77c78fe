"""Quality, speed and memory of the propagation engines. The numbers in the documentation come from here."""
