from pathlib import Path

import pytest

from mlx_ollama.settings import Settings, SettingsError, describe, load
from tests.support.server import run_cli


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('port = 1000\nkeep_alive = "1h"\nlog_level = "debug"\n')
    environment = {"MLX_API_CONFIG": str(file), "MLX_API_PORT": "2000", "MLX_API_KEEP_ALIVE": "90"}
    loaded = load({"port": 3000}, environment)
    assert (loaded.settings.port, loaded.settings.keep_alive, loaded.settings.log_level) == (3000, 90.0, "debug")
    assert loaded.origins["port"].source == "--port"
    assert loaded.origins["keep_alive"].source == "MLX_API_KEEP_ALIVE"
    assert loaded.origins["log_level"].source == str(file)
    assert loaded.origins["host"].source == "default"


def test_ollamas_variables_count_where_ours_are_unset() -> None:
    theirs = {"OLLAMA_KEEP_ALIVE": "10m", "OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_ORIGINS": "http://a.example, x://*"}
    settings = load({}, theirs).settings
    assert settings.keep_alive == 600
    assert settings.context_length == 8192
    assert settings.origins == ("http://a.example", "x://*")
    assert load({}, {**theirs, "MLX_API_KEEP_ALIVE": "1m"}).settings.keep_alive == 60


GUARDED = {"max_concurrent": 5, "queue": 0, "queue_timeout": 60.0, "rate_limit": 30, "timeout": 300.0}
WAITING = {"max_concurrent": 16, "queue": 512, "queue_timeout": 0.0, "rate_limit": 0, "timeout": 0.0}


@pytest.mark.parametrize(
    ("environment", "profile", "figures"),
    [({}, "guarded", GUARDED), ({"MLX_API_PROFILE": "ollama"}, "ollama", WAITING)],
)
def test_a_profile_gives_what_nobody_has_set(
    environment: dict[str, str], profile: str, figures: dict[str, float]
) -> None:
    loaded = load({}, environment)
    assert {name: getattr(loaded.settings, name) for name in figures} == figures
    assert {loaded.origins[name].source for name in figures} == {f"profile {profile}"}
    assert loaded.settings.rate_window == 60.0
    explicit = load({"profile": profile}, {"MLX_API_QUEUE": "7", "MLX_API_TIMEOUT": "2m"})
    assert (explicit.settings.queue, explicit.settings.timeout) == (7, 120.0)
    assert explicit.origins["queue"].source == "MLX_API_QUEUE"
    assert explicit.settings.rate_limit == figures["rate_limit"]


def test_a_profile_may_stand_in_the_file_and_flags_win(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('profile = "ollama"\nrate_limit = 9\n')
    loaded = load({"home": str(tmp_path)}, {})
    assert (loaded.settings.queue, loaded.settings.rate_limit) == (512, 9)
    assert loaded.origins["profile"].source == str(tmp_path / "config.toml")
    assert load({"home": str(tmp_path), "profile": "guarded"}, {}).settings.queue == 0


def test_percentages_are_decimal_numbers() -> None:
    environment = {"MLX_API_MEMORY_WARNING": "80.5", "MLX_API_MEMORY_CRITICAL": "90", "MLX_API_MEMORY_EMERGENCY": "90"}
    settings = load({}, environment).settings
    assert (settings.memory_warning, settings.memory_critical, settings.memory_emergency) == (80.5, 90.0, 90.0)
    defaults = load({}, {}).settings
    assert (defaults.memory_warning, defaults.memory_critical, defaults.memory_emergency) == (85.0, 95.0, 98.0)
    assert (defaults.memory_interval, defaults.keep_count) == (10.0, 1)


def test_truth_has_many_words() -> None:
    assert [load({}, {"MLX_API_STRICT": word}).settings.strict for word in ("1", "true", "No", "off")] == [
        True,
        True,
        False,
        False,
    ]


def test_ollamas_host_and_models_are_not_ours() -> None:
    settings = load({}, {"OLLAMA_HOST": "0.0.0.0:1", "OLLAMA_MODELS": "/elsewhere"}).settings
    # Only where to look for models that Ollama has.
    assert settings == Settings(home=settings.home, ollama_models=Path("/elsewhere"))


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MLX_API_WORKERS": "2"}, "MLX_API_WORKERS: workers '2': only 1 works"),
        ({"MLX_API_PORT": "http"}, "MLX_API_PORT: 'http' is no good for port"),
        ({"MLX_API_PORT": "70000"}, "not a port"),
        ({"MLX_API_DEVICE": "npu"}, "must be one of auto, cpu, gpu"),
        ({"MLX_API_KEEP_ALIVE": "5 minutes"}, "MLX_API_KEEP_ALIVE"),
        ({"MLX_API_STRICT": "2"}, "MLX_API_STRICT: '2' is no good for strict: neither true nor false"),
        ({"MLX_API_MEMORY_INTERVAL": "0"}, "memory_interval '0': must be above 0"),
        ({"MLX_API_KEEP_COUNT": "-1"}, "keep_count '-1': must not be negative"),
        ({"MLX_API_MEMORY_WARNING": "0"}, "memory_warning '0': must be a percentage above 0 and up to 100"),
        ({"MLX_API_MEMORY_EMERGENCY": "100.1"}, "memory_emergency '100.1': must be a percentage"),
        ({"MLX_API_MEMORY_CRITICAL": "nan"}, "memory_critical 'nan': must be a percentage"),
        ({"MLX_API_MEMORY_CRITICAL": "95%"}, "MLX_API_MEMORY_CRITICAL: '95%' is no good for memory_critical"),
        ({"MLX_API_MEMORY_CRITICAL": "1m"}, "MLX_API_MEMORY_CRITICAL: '1m' is no good for memory_critical"),
        ({"MLX_API_MEMORY_CRITICAL": "80"}, "memory_critical '80': must not be below memory_warning, which is 85"),
        ({"MLX_API_MEMORY_CRITICAL": "99"}, "memory_emergency '98': must not be below memory_critical, which is 99"),
        ({"MLX_API_WORKER_GROWTH": "-1"}, "worker_growth '-1': must be a percentage, or 0"),
        ({"MLX_API_WORKER_GROWTH": "nan"}, "worker_growth 'nan': must be a percentage, or 0"),
        ({"MLX_API_DRAIN": "nan"}, "not a finite number"),
        ({"MLX_API_PROFILE": "open"}, "MLX_API_PROFILE: profile 'open': must be one of guarded, ollama"),
        ({"MLX_API_MAX_CONCURRENT": "0"}, "MLX_API_MAX_CONCURRENT: max_concurrent '0': must be above 0"),
        ({"MLX_API_QUEUE": "-1"}, "must not be negative"),
        ({"MLX_API_CONFIG": "/nowhere.toml"}, "cannot read the configuration /nowhere.toml"),
    ],
)
def test_bad_values_are_refused_by_name(environment: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, environment)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_concurrent = [5]", "[5] is no good for max_concurrent: not a number"),
        ("max_concurrent = 5.7", "5.7 is no good for max_concurrent: not a whole number"),
        ("max_concurrent = 2024-01-01", "datetime.date(2024, 1, 1) is no good for max_concurrent: not a number"),
        ("max_body = inf", "inf is no good for max_body: not a whole number"),
        ("max_body = nan", "nan is no good for max_body: not a whole number"),
        ("timeout = [1]", "[1] is no good for timeout: not a number"),
        (f"timeout = 1{'0' * 400}", "is no good for timeout: int too large"),
        ("memory_warning = [1]", "[1] is no good for memory_warning: not a number"),
        ("memory_warning = {at = 1}", "{'at': 1} is no good for memory_warning: not a number"),
        ("home = 5", "5 is no good for home: not a string"),
        ('host = ["a"]', "['a'] is no good for host: not a string"),
        ("origins = 5", "5 is no good for origins: not a list of strings"),
        ('strict = ["on"]', "['on'] is no good for strict: neither true nor false"),
    ],
)
def test_a_wrong_type_in_the_file_is_refused_by_name(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(line)
    with pytest.raises(SettingsError) as caught:
        load({"config": str(file)}, {})
    assert str(caught.value).startswith(f"{file}: ")
    assert words in str(caught.value)


def test_a_wrong_type_ends_the_command_as_bad_usage(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("home = 5\n")
    refused = run_cli("config", "--config", str(file))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"Error: {file}: 5 is no good for home: not a string\n"


def test_a_number_that_nobody_can_read_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"port = 1{'0' * 5000}\n")
    with pytest.raises(SettingsError, match="cannot read the configuration"):
        load({"home": str(tmp_path)}, {})


def test_a_whole_number_may_be_written_with_a_point(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("max_concurrent = 5.0\nmax_body = 1e6\ntimeout = 1\n")
    settings = load({"home": str(tmp_path)}, {}).settings
    assert (settings.max_concurrent, settings.max_body, settings.timeout) == (5, 1_000_000, 1.0)
    assert isinstance(settings.max_body, int)


def test_a_path_is_absolute_whoever_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    file = tmp_path / "other.toml"
    file.write_text('home = "here"\nollama_models = "~/theirs"\n')
    for loaded in (load({"home": "here"}, {}), load({}, {"MLX_API_HOME": "here"}), load({"config": "other.toml"}, {})):
        assert loaded.settings.home == loaded.origins["home"].value == tmp_path / "here"
    assert (loaded.settings.ollama_models, loaded.file) == (tmp_path / "ann/theirs", file)
    unset = load({}, {"MLX_API_HOME": " "})
    assert (unset.settings.home, unset.origins["home"].source) == (tmp_path / "ann/.mlx-ollama", "default")
    assert (unset.settings.ollama_models, unset.file) == (tmp_path / "ann/.ollama/models", None)


def test_a_link_on_the_way_home_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to("disk")
    assert load({"home": str(tmp_path / "home")}, {}).settings.home == tmp_path / "home"


@pytest.mark.parametrize("variable", ["MLX_API_HOME", "MLX_API_CONFIG", "OLLAMA_MODELS"])
def test_the_home_of_somebody_who_is_not_here_is_refused(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}: '~nobody-of-that-name/x'"):
        load({}, {variable: "~nobody-of-that-name/x"})


def test_unknown_settings_warn(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("prot = 1\n")
    loaded = load({"home": str(tmp_path)}, {"MLX_API_PROT": "1"})
    assert loaded.warnings == [
        "unknown setting MLX_API_PROT in the environment",
        f"unknown setting prot in {tmp_path / 'config.toml'}",
    ]


def test_config_prints_every_setting_with_its_origin(tmp_path: Path) -> None:
    printed = run_cli("config", "--home", str(tmp_path), env={"MLX_API_PORT": "4711", "MLX_API_PROT": "1"})
    rows = {line.split()[0]: line.split() for line in printed.stdout.splitlines()}
    assert rows["MLX_API_PORT"] == ["MLX_API_PORT", "4711", "11435", "MLX_API_PORT"]
    assert rows["MLX_API_MAX_CONCURRENT"] == ["MLX_API_MAX_CONCURRENT", "5", "5", "profile", "guarded"]
    assert len(rows) == len(describe(load({}, {}))) + 1
    assert "unknown setting MLX_API_PROT" in printed.stderr


def test_config_names_the_file_that_was_read(tmp_path: Path) -> None:
    usual, other = tmp_path / "config.toml", tmp_path / "other.toml"

    def row(*arguments: str, env: dict[str, str] | None = None) -> str:
        (found,) = [row for row in run_cli("config", *arguments, env=env).stdout.splitlines() if "_CONFIG " in row]
        return " ".join(found.split())

    home = ("--home", str(tmp_path))
    assert row(*home) == f"MLX_API_CONFIG (none) {usual} default"
    usual.touch()
    other.touch()
    assert row(*home) == f"MLX_API_CONFIG {usual} {usual} default"
    assert row(*home, env={"MLX_API_CONFIG": str(other)}) == f"MLX_API_CONFIG {other} {usual} MLX_API_CONFIG"
    assert row(*home, "--config", str(other)) == f"MLX_API_CONFIG {other} {usual} --config"


def test_more_than_one_worker_is_refused_with_the_reason() -> None:
    refused = run_cli("serve", "--workers", "2")
    assert refused.returncode == 2
    assert "only 1 works: loaded models and limits are shared state" in refused.stderr


def test_readme_documents_every_setting() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    missing = [variable for variable, *_ in describe(load({}, {})) if f"`{variable}`" not in readme]
    assert not missing
    rows = [line for line in readme.splitlines() if line.startswith("| `MLX_API_")]
    assert len(rows) == len(set(rows))
