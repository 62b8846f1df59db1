"""What every test runs under."""

from hypothesis import settings

# A busy machine is slow now and then: how long one example takes says nothing about the code.
settings.register_profile("vitrine", deadline=None)
settings.load_profile("vitrine")
