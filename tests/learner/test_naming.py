from learner.naming import owner_of, plain_name, service_names


def test_a_name_that_is_taken_is_not_given_again() -> None:
    assert service_names(["spiffe://td/ns/shop/sa/db"], taken=["db"]) == {"spiffe://td/ns/shop/sa/db": "shop-db"}
    assert service_names(["spiffe://td/ns/shop/sa/db"], taken=["db", "shop-db"]) == {
        "spiffe://td/ns/shop/sa/db": "shop-db-2"
    }


def test_owners_follow_namespaces() -> None:
    assert owner_of("spiffe://td/ns/shop/sa/db") == "team-shop"
    assert owner_of("spiffe://td/db") == "unowned"


def test_names_are_what_policies_allow() -> None:
    assert plain_name("A_b.") == "a-b"
    assert plain_name("--") == "service"
