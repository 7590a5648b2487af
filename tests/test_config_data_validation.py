import pytest

from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.errors import ConfigError


def read(**asked):
    return config_from_dict({"name": "test", "data_validation": asked}).data_validation


def test_one_number_is_a_limit_on_every_feature_and_a_section_on_those_it_names():
    assert read(drift_comparator={"jensen_shannon_divergence": 0.1}).drift_comparator.divergence_limits(("a", "b")) == {"a": 0.1, "b": 0.1}
    named = read(drift_comparator={"jensen_shannon_divergence": {"tokens": 0.1}}).drift_comparator
    assert named.divergence_limits(("tokens", "characters")) == {"tokens": 0.1}
    assert not read().drift_comparator.is_asked


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"drift_comparator": {"infinity_norm": 1.5}},
            r"data_validation\.drift_comparator\.infinity_norm must be between 0 and 1 or null, not 1\.5",
        ),
        (
            {"drift_comparator": {"jensen_shannon_divergence": {"token": 0.1}}},
            r"jensen_shannon_divergence\.token must be of a feature that is compared \(source, tokens, .*\), not 'token'",
        ),
        ({"drift_comparator": {"jensen_shannon_divergence": {"tokens": -1}}}, r"jensen_shannon_divergence\.tokens must be between 0 and 1"),
        (
            {"skew_comparator": {"jensen_shannon_divergence": {"source": 0.1}}, "serving_prompts": "p.txt"},
            r"jensen_shannon_divergence\.source must be of a feature that is compared",
        ),
        (
            {"skew_comparator": {"infinity_norm": 0.1}, "serving_prompts": "p.txt"},
            "infinity_norm must be null, since prompts have no source",
        ),
        ({"skew_comparator": {"jensen_shannon_divergence": 0.1}}, r"data_validation\.serving_prompts must be the path of a file, since"),
        ({"serving_prompts": " "}, r"data_validation\.serving_prompts must be the path of a file or null, not ' '"),
        ({"stop_on_anomalies": True}, r"data_validation\.stop_on_anomalies must be false where neither .* has a limit"),
        ({"max_drift": 0.1}, r"unknown config key data_validation\.max_drift"),
    ],
)
def test_what_is_refused(asked, message):
    with pytest.raises(ConfigError, match=message):
        read(**asked)


def test_features_of_the_corpus_may_have_limits_of_drift_and_prompts_have_none():
    corpus = {"source": "jsonl:*", "features": ["language"]}
    limit = {"jensen_shannon_divergence": {"language": 0.1}}
    asked = config_from_dict({"name": "test", "corpus": corpus, "data_validation": {"drift_comparator": limit}}).data_validation
    assert asked.drift_comparator.divergence_limits(()) == {"language": 0.1}
    with pytest.raises(ConfigError, match=r"drift_comparator.*\.language must be of a feature that is compared \(source, tokens"):
        read(drift_comparator=limit)
    with pytest.raises(ConfigError, match=r"skew_comparator.*\.language must be of a feature that is compared \(tokens"):
        config_from_dict(
            {"name": "test", "corpus": corpus, "data_validation": {"skew_comparator": limit, "serving_prompts": "prompts.txt"}}
        )


def test_where_tensorflow_serving_may_run():
    assert config_from_dict({"name": "test"}).infra_validation is None
    with pytest.raises(ConfigError, match="infra_validation must be docker, kubernetes or null, not 'podman'"):
        config_from_dict({"name": "test", "infra_validation": "podman"})
