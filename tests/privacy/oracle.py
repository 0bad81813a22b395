"""Another accountant: privacy loss distributions with connected dots, add or remove one record."""

from functools import reduce

from dp_accounting.pld import privacy_loss_distribution as pld

from dplit.privacy import Event


def _composed(composition, grid):
    def repeated(event: Event, times: int):
        rate, noise = event.dominating()
        single = pld.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=grid)
        return single.self_compose(times)

    return reduce(lambda a, b: a.compose(b), [repeated(event, times) for event, times in composition])


def pld_epsilon(composition, delta, grid=1e-4):
    """Return ε for add or remove one record, slightly pessimistic: about steps × grid² / 12 above the truth."""
    return _composed(composition, grid).get_epsilon_for_delta(delta)


def pld_delta(composition, epsilon, grid=1e-4):
    """Return δ for add or remove one record, slightly pessimistic."""
    return _composed(composition, grid).get_delta_for_epsilon(epsilon)


def pld_by_neighbour(composition, delta, grid=1e-4):
    """Return ε when a record is removed, and when one is added."""
    both = _composed(composition, grid)
    return [pmf.get_epsilon_for_delta(delta) for pmf in (both._pmf_remove, both._pmf_add)]
