from alknet_firewall.training.compose import compose
from alknet_firewall.training.data_loader import Example

DOCUMENT = "The ferry leaves at nine. Tickets are sold on board. Dogs travel free.\nBring a coat."


def carriers() -> list[Example]:
    return [
        Example(DOCUMENT, "benign", "benign_document", "tool", "docs"),
        Example("Write a haiku about rain.", "benign", "benign_instruction", "user", "asks"),
    ]


def test_poisoned_documents_hold_the_injection_they_state() -> None:
    documents = compose(carriers(), poisoned=200, mixed=50, seed=3)
    attacks = [d for d in documents if d.label == "attack"]
    assert len(attacks) == 200
    assert all(d.injection and d.injection in d.text and d.role == "tool" for d in attacks)
    assert len({d.injection for d in attacks}) > 100


def test_mixed_documents_are_harmless() -> None:
    mixed = [d for d in compose(carriers(), 10, 50, seed=3) if d.label == "benign"]
    assert len(mixed) == 50
    assert all(d.injection is None for d in mixed)


def test_the_same_seed_gives_the_same_documents() -> None:
    assert compose(carriers(), 20, 20, seed=1) == compose(carriers(), 20, 20, seed=1)
    assert compose(carriers(), 20, 20, seed=1) != compose(carriers(), 20, 20, seed=2)


def test_nothing_is_composed_without_documents() -> None:
    assert compose([], 10, 10, seed=0) == []
