import pytest

from aliasfs.cli.masking import masked, may_be_secret


def test_only_what_is_known_to_be_harmless_is_shown() -> None:
    assert masked(
        {
            "key": "k",
            "secret": "s",
            "unknown": "u",
            "anon": True,
            "region": "eu",
            "endpoint_url": "http://h:1",
            "client_kwargs": {"region_name": "eu", "aws_session_token": "t", "verify": False},
        }
    ) == {
        "key": "***",
        "secret": "***",
        "unknown": "***",
        "anon": True,
        "region": "eu",
        "endpoint_url": "http://h:1",
        "client_kwargs": {"region_name": "eu", "aws_session_token": "***", "verify": False},
    }


@pytest.mark.parametrize("address", ["http://user:password@host", "https://host/?sig=x"])
def test_an_address_with_a_credential_is_masked(address: str) -> None:
    assert masked({"endpoint_url": address}) == {"endpoint_url": "***"}


@pytest.mark.parametrize("name", ["key", "account_key", "client_kwargs.aws_secret_access_key", "sas_token", "password"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert may_be_secret(name)
    assert not may_be_secret("endpoint_url")
