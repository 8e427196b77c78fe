"""The annotation backend ``labelprop``, as FiftyOne expects one.

FiftyOne finds the backend by cutting ``Config`` off the dotted path of the config class, and stores that path in its
database: both classes live in this module, and the module never moves.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
import fiftyone.utils.annotations as foua

from labelprop_cvat import workflow
from labelprop_cvat.backend.api import LabelPropAPI
from labelprop_cvat.backend.calls import asked_to_annotate
from labelprop_cvat.backend.credentials import resolve_url
from labelprop_cvat.backend.cvat import NotFound
from labelprop_cvat.backend.label_ids import renew_shared_ids
from labelprop_cvat.backend.ledger import Ledger
from labelprop_cvat.backend.limits import FrameLimits
from labelprop_cvat.backend.results import LabelPropResults, open_client, upload
from labelprop_cvat.backend.rounds import PlannedSegment, plan_exemplar_round
from labelprop_cvat.backend.rounds.review import checked_frames, checked_review_as
from labelprop_cvat.backend.schema import (
    ATTRIBUTE_TYPES,
    FRAMES_PREFIX,
    INDEX_ATTRIBUTE,
    LABEL_KINDS,
    NOT_SCALAR,
    PROPERTY_TYPES,
    RunSchema,
    inherited_schema,
    plain_schema,
    run_schema,
)
from labelprop_cvat.backend.skeletons import with_skeletons
from labelprop_cvat.backend.status import JOB_STATES, checked_stages, checked_states
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.propagation.auto import AUTO
from labelprop_cvat.propagation.propagator import get_propagator
from labelprop_cvat.sequences import COLLECTION_KEY, sequences_of
from labelprop_cvat.sequences import Sequence as FrameSequence

logger = logging.getLogger(__name__)

#: The ``engine`` of a run that annotates and fills nothing.
NO_ENGINE = "none"

_LOGIN = ("url", "username", "email", "password", "token", "headers", "verify")
_INDEX_EDITS = "allow_index_edits"

MISSING_POLICIES = ("unknown", "absent")


class LabelPropBackendConfig(foua.AnnotationBackendConfig):
    """What a labelprop run is asked to do. All parameters of FiftyOne's CVAT backend are taken, and these:

    Args:
        name: the name of the backend
        label_schema: FiftyOne's description of the label field to annotate
        output_field (None): where propagated labels go; by default ``<label_field>_propagated``. Never the
            ``label_field`` itself. For several fields a dict by label field
        engine ("auto"): name of the propagation engine; ``"auto"`` takes ``"sam2"`` where it can run well when frames
            are filled, else ``"flow"``; ``"none"`` annotates only, and sends every frame
        engine_options (None): options of that engine, a dict of plain values
        sort_field (None): what orders an image collection; grouped views and videos bring their order
        segments_field (None): field that holds temporal segments and, on images, their ``exemplar_score``; where it is
            missing or empty, segments are computed
        segmentation ("auto"): how segments are computed, see :func:`labelprop_cvat.workflow.segment`
        exemplars (None): which frames people annotate in each segment: ``"first"``, ``"middle"``, ``"uniform:k"``,
            ``"every:n"``, ``"all"``, ``"diverse:k"``, ``"coverage:k"``, ``"coverage:0.9"`` for as many frames as
            promise this mean J, or ``"scores"`` for those that ``segments_field`` scores. By default the scores where
            there are any, else ``"every:10"``, and ``"all"`` where nothing is propagated
        missing ("unknown"): what it means when an object is missing on an annotated exemplar: ``"unknown"`` (the
            frame may be partly annotated) or ``"absent"`` (it is not visible there)
        review (False): whether propagated labels go back to CVAT to be reviewed, again and again until nobody changes
            anything, every verdict is satisfactory or ``max_rounds`` is reached; each load brings back and sends out
        review_frames ("all"): which frames of a segment reviewers see: ``"all"``, ``"every:n"``, or ``"uncertain"``
        review_as (None): ``"polygons"`` has masks reviewed as tracks of polygons, whose corners can be dragged, and
            which are less exact
        max_rounds (5): how often a segment goes out for review at most
        gt_field (None): field with ground truth, where there is some: each load notes in the history how good the
            propagated labels are
        job_reviewers (None): user names that the jobs of reviews are dealt out to in turn
        job_states ("completed"): a CVAT job state, or several, in which a job counts as finished; jobs at the stage
            ``"acceptance"`` do in any state
        job_stages (None): a CVAT job stage, or several, in which it can; by default every stage. With
            ``"acceptance"`` only what a reviewer accepted comes back
        token (None): a CVAT access token, instead of user name and password
        verify (None): whether to check the server's TLS certificate; may be the path of a CA bundle. False trusts
            whoever answers, and says so in the log. By default what FiftyOne's annotation config says, else True
        timeout (120): seconds to wait for an answer of the server

    Parameters of FiftyOne's CVAT backend: ``media_field``, ``url``, ``username``, ``email``, ``password``,
    ``headers``, ``task_size``, ``segment_size`` (frames in a job), ``image_quality``, ``use_cache``,
    ``use_zip_chunks``, ``chunk_size``, ``task_assignee``, ``job_assignees``, ``project_name``, ``project_id``,
    ``task_name``, ``occluded_attr``, ``group_id_attr``, ``issue_tracker``, ``organization``, ``frame_start``,
    ``frame_stop``, ``frame_step`` (0-based; they limit which frames may be exemplars), ``coerce_text_attrs`` (False
    here: text stays text).

    User names, passwords, tokens and headers are never stored.

    Raises:
        ConfigurationError: a parameter that does not exist, or a value that makes no sense
    """

    def __init__(
        self,
        name: str,
        label_schema: dict[str, Any] | None,
        media_field: str = "filepath",
        url: str | None = None,
        username: str | None = None,
        email: str | None = None,
        password: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | None = None,
        timeout: float = 120,
        output_field: str | Mapping[str, str] | None = None,
        engine: str = AUTO,
        engine_options: dict[str, Any] | None = None,
        sort_field: str | None = None,
        segments_field: str | None = None,
        segmentation: str = "auto",
        exemplars: str | None = None,
        missing: str = "unknown",
        review: bool = False,
        review_frames: str = "all",
        review_as: str | None = None,
        max_rounds: int = 5,
        gt_field: str | None = None,
        job_states: str | Sequence[str] = "completed",
        job_stages: str | Sequence[str] | None = None,
        task_size: int | None = None,
        segment_size: int | None = None,
        image_quality: int = 75,
        use_cache: bool = True,
        use_zip_chunks: bool = True,
        chunk_size: int | None = None,
        task_assignee: str | Sequence[str] | None = None,
        job_assignees: str | Sequence[str] | None = None,
        job_reviewers: str | Sequence[str] | None = None,
        project_name: str | None = None,
        project_id: int | None = None,
        task_name: str | None = None,
        occluded_attr: str | None = None,
        group_id_attr: str | None = None,
        issue_tracker: str | Sequence[str] | None = None,
        organization: str | None = None,
        frame_start: Any = None,
        frame_stop: Any = None,
        frame_step: Any = None,
        coerce_text_attrs: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs:
            raise ConfigurationError(_unknown_parameters(sorted(kwargs)))
        super().__init__(name, label_schema, media_field=media_field)
        self.url = url
        self.verify = _checked_verify(verify)
        self.timeout = _positive("timeout", timeout, Real)
        self.output_field = dict(output_field) if isinstance(output_field, Mapping) else output_field
        self.engine = engine
        self.engine_options = _plain_options(engine_options)
        self.sort_field = sort_field
        self.segments_field = segments_field
        self.segmentation = segmentation
        self.exemplars = exemplars
        self.missing = _one_of("missing", missing, MISSING_POLICIES)
        self.review = _checked_bool("review", review)
        self.review_frames = checked_frames(review_frames)
        self.review_as = checked_review_as(review_as)
        self.max_rounds = _positive("max_rounds", max_rounds)
        self.gt_field = gt_field
        self.job_states = checked_states(job_states)
        self.job_stages = checked_stages(job_stages)
        self.task_size = _positive("task_size", task_size)
        self.segment_size = _positive("segment_size", segment_size)
        self.image_quality = _in_range("image_quality", image_quality, 0, 100)
        self.use_cache = use_cache
        self.use_zip_chunks = use_zip_chunks
        self.chunk_size = _positive("chunk_size", chunk_size)
        self.task_assignee = _list(task_assignee)
        self.job_assignees = _list(job_assignees)
        self.job_reviewers = _list(job_reviewers)
        self.project_name = project_name
        self.project_id = project_id
        self.task_name = task_name
        self.occluded_attr = occluded_attr
        self.group_id_attr = group_id_attr
        self.issue_tracker = _list(issue_tracker)
        self.organization = organization
        self.frame_start = frame_start
        self.frame_stop = frame_stop
        self.frame_step = frame_step
        self.frame_limits()
        self.coerce_text_attrs = coerce_text_attrs
        self._username = username or email
        self._password = password
        self._token = token
        self._headers = dict(headers) if headers else None
        self._login_before: dict[str, Any] | None = None
        self._filled_by: tuple[str, dict[str, Any]] | None = None

    # Private attributes are not stored; FiftyOne's load_credentials sets these properties.
    @property
    def username(self) -> str | None:
        """CVAT user name; never stored."""
        return self._username

    @username.setter
    def username(self, value: str | None) -> None:
        self._username = value

    @property
    def email(self) -> str | None:
        """CVAT takes an e-mail address in place of a user name; never stored."""
        return self._username

    @email.setter
    def email(self, value: str | None) -> None:
        self._username = self._username or value

    @property
    def password(self) -> str | None:
        """CVAT password; never stored."""
        return self._password

    @password.setter
    def password(self, value: str | None) -> None:
        self._password = value

    @property
    def token(self) -> str | None:
        """CVAT access token; never stored."""
        return self._token

    @token.setter
    def token(self, value: str | None) -> None:
        self._token = value

    @property
    def headers(self) -> dict[str, str] | None:
        """Further headers of every request; never stored, they may hold secrets."""
        return self._headers

    @headers.setter
    def headers(self, value: Mapping[str, str] | None) -> None:
        self._headers = dict(value) if value else None

    def load_credentials(
        self,
        url: str | None = None,
        username: str | None = None,
        password: str | None = None,
        email: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | None = None,
        job_states: str | Sequence[str] | None = None,
        job_stages: str | Sequence[str] | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes the credentials, and the engine, that were given to a ``load_*`` method.

        ``job_states`` and ``job_stages`` are only checked: they count for one ``load_annotations()``, which asks for
        them itself. For the engine see :meth:`fill_with`.

        Raises:
            ConfigurationError: something else was given too, there is no such state or stage, or the engine is not to
                be had
        """
        if kwargs:
            names = ", ".join(map(repr, sorted(kwargs)))
            raise ConfigurationError(
                f"Loading a run of backend='labelprop' takes url, username, email, password, token, headers, verify, "
                f"job_states, job_stages, engine and engine_options. What else annotate() takes does not change "
                f"afterwards, got {names}."
            )
        if job_states is not None:
            checked_states(job_states)
        checked_stages(job_stages)
        self.fill_with(engine, engine_options)
        given = {
            "url": url,
            "username": username,
            "password": password,
            "email": email,
            "token": token,
            "headers": headers,
            "verify": _checked_verify(verify),
        }
        before = self.login()
        for key, value in given.items():
            if value is not None:
                setattr(self, key, value)
        if self.login() != before:
            self._login_before = before

    def login(self) -> dict[str, Any]:
        """Where CVAT is, and who logs in how."""
        return {name: getattr(self, name) for name in _LOGIN}

    def keep_login(self) -> None:
        """Says that what was given to a ``load_*`` method is right."""
        self._login_before = None

    def undo_login(self) -> bool:
        """Takes back what was given to a ``load_*`` method since the last :meth:`keep_login`.

        Returns:
            whether there was something
        """
        before, self._login_before = self._login_before, None
        for name, value in (before or {}).items():
            setattr(self, name, value)
        return before is not None

    def fill_with(self, engine: str | None = None, engine_options: Mapping[str, Any] | None = None) -> None:
        """Says what fills frames until this is called again. It is not stored; the run's own stays what it is.

        Args:
            engine: name of an engine, or ``"none"``; None for the run's own
            engine_options: its options; those of the run's own engine stand over what the run was made with

        Raises:
            ConfigurationError: the engine is not to be had, or the run fills no field
        """
        self._filled_by = None
        if engine is None and engine_options is None:
            return
        if not self.propagates:
            raise ConfigurationError(
                "This run only annotates: it was made with engine='none', or none of its fields can be filled. Load it "
                "without engine and engine_options; workflow.propagate() fills a field from what another one holds."
            )
        own = {} if engine not in (None, self.engine) else self.engine_options
        name, options = engine or self.engine, {**own, **_plain_options(engine_options)}
        if name != NO_ENGINE:
            get_propagator(name, **options)
        self._filled_by = name, options

    def filled_by(self) -> tuple[str | None, dict[str, Any]]:
        """The name of the engine that fills frames this time, None for none, and its options."""
        name, options = self._filled_by or (self.engine, dict(self.engine_options))
        return None if name == NO_ENGINE else name, options

    @property
    def propagates(self) -> bool:
        """Whether other frames are filled at all."""
        return self.engine != NO_ENGINE

    def outputs(self) -> dict[str, str]:
        """The fields that propagated labels go to, by the label field that they are made from."""
        fields = [field.label_field for field in self.schema().propagated] if self.propagates else []
        if isinstance(self.output_field, Mapping):
            return {field: self.output_field[field] for field in fields if field in self.output_field}
        return {fields[0]: self.output_field or f"{fields[0]}{workflow.OUTPUT_SUFFIX}"} if fields else {}

    def frame_limits(self) -> FrameLimits:
        """Which frames may be exemplars."""
        return FrameLimits(self.frame_start, self.frame_stop, self.frame_step)

    def schema(self) -> RunSchema:
        """What the run annotates."""
        return run_schema(
            self.label_schema,
            occluded_attr=self.occluded_attr,
            group_id_attr=self.group_id_attr,
            coerce_text=self.coerce_text_attrs,
        )


def _unknown_parameters(names: Sequence[str]) -> str:
    known = sorted(set(_parameters()) - {"self", "name", "label_schema", "kwargs"})
    meant = [close for name in names for close in get_close_matches(name, known, n=1)]
    hint = f" Did you mean {', '.join(map(repr, meant))}?" if meant else ""
    return f"backend='labelprop' has no parameter {', '.join(map(repr, names))}.{hint} It has: {', '.join(known)}."


def _parameters() -> tuple[str, ...]:
    code = LabelPropBackendConfig.__init__.__code__
    return code.co_varnames[: code.co_argcount]


def _plain_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of an engine as the database can keep them."""
    if not isinstance(options, Mapping | None):
        raise ConfigurationError(f"engine_options is a dict of option names and values, got {options!r}.")
    plain = {name: fspath(value) if isinstance(value, PathLike) else value for name, value in (options or {}).items()}
    try:
        json.dumps(plain)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"engine_options are stored with the run, so they hold texts, numbers, booleans and lists, got {options!r} "
            f"({error}). An engine that takes other things can be given to workflow.propagate()."
        ) from error
    return plain


def _one_of(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ConfigurationError(f"{name} is one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


def _checked_verify(verify: Any) -> bool | str | None:
    # Whether the path is there is seen when it is used: a run may be read on another machine.
    if not isinstance(verify, bool | str | PathLike | None):
        raise ConfigurationError(
            f"verify is True, False, or the path of a file or folder with CA certificates, got {verify!r}."
        )
    return verify if isinstance(verify, bool | None) else str(verify)


def _checked_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} is True or False, got {value!r}.")
    return value


def _positive(name: str, value: Any, kind: Any = Integral) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or not value > 0):
        what = "whole number from 1" if kind is Integral else "positive number"
        raise ConfigurationError(f"{name} is a {what}, got {value!r}.")
    return int(value) if isinstance(value, Integral) else value


def _in_range(name: str, value: int, low: int, high: int) -> int:
    if not isinstance(value, int) or not low <= value <= high:
        raise ConfigurationError(f"{name} is a whole number from {low} to {high}, got {value!r}.")
    return value


def _list(value: str | Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


class LabelPropBackend(foua.AnnotationBackend):
    """Sends exemplar frames to CVAT, brings keyframes back and has every other frame filled."""

    def __init__(self, config: LabelPropBackendConfig) -> None:
        super().__init__(config)
        self._plan: tuple[list[FrameSequence], Ledger] | None = None
        self._resumed: LabelPropResults | None = None
        self._index_edits: dict[str, bool] = {}
        self._any_index_edits = True

    @property
    def supported_media_types(self) -> list[str]:
        """Images, videos and groups of them."""
        return [fom.IMAGE, fom.VIDEO, fom.GROUP]

    @property
    def supported_label_types(self) -> list[str]:
        """Everything that FiftyOne can annotate."""
        return list(LABEL_KINDS)

    @property
    def supported_scalar_types(self) -> list[type]:
        """Numbers, texts and booleans."""
        return [fo.IntField, fo.FloatField, fo.StringField, fo.BooleanField]

    @property
    def supported_attr_types(self) -> list[str]:
        """CVAT's attribute types, and its "occluded" and group."""
        return [*ATTRIBUTE_TYPES, *PROPERTY_TYPES]

    @property
    def supports_keyframes(self) -> bool:
        """Tracks travel as keyframes."""
        return True

    @property
    def supports_video_sample_fields(self) -> bool:
        """Classifications and values of a whole video stand on its first frame."""
        return True

    @property
    def supports_clips_views(self) -> bool:
        """Clips are segments of their videos."""
        return True

    @property
    def requires_label_schema(self) -> bool:
        """A run must say what it annotates."""
        return True

    def recommend_attr_tool(self, name: str, value: Any) -> dict[str, Any]:
        """How an attribute with this name and value is best edited in CVAT."""
        if isinstance(value, bool):
            return {"type": "occluded"} if name == "occluded" else {"type": "checkbox"}
        if isinstance(value, int) and name == "group_id":
            return {"type": "group_id"}
        if isinstance(value, int):
            return {"type": "number"}
        if value is not None and not isinstance(value, str | float):
            return {"type": "text", NOT_SCALAR: True}
        return {"type": "text"}

    def requires_attr_values(self, attr_type: str) -> bool:
        """Whether an attribute of this type needs a list of values. Asks nobody, so no server is needed."""
        return attr_type in ("select", "radio")

    def ensure_requirements(self) -> None:
        """Fails before anything is written where the server, the login or the engine is not to be had."""
        # FiftyOne's own idea of the label schema, which comes next, forgets this for images.
        asked = asked_to_annotate("label_schema")
        described = asked if isinstance(asked, Mapping) else {}
        self._any_index_edits = bool(asked_to_annotate("allow_index_edits", True))
        self._index_edits = {
            name: bool((info or {}).get(_INDEX_EDITS, self._any_index_edits)) for name, info in described.items()
        }
        if self.config.propagates:
            workflow.warn_if_not_ready(get_propagator(self.config.engine, **self.config.engine_options))
        self.connect_to_api().whoami()

    def _connect_to_api(self) -> LabelPropAPI:
        config = self.config
        if config.organization:
            # The server says 404 to everything in an organization that it does not know under its short name.
            with open_client(config, None) as client:
                try:
                    config.organization = client.find_organization(config.organization).slug
                except NotFound as error:
                    raise ConfigurationError(
                        f"organization={config.organization!r} is not to be had. {error}"
                    ) from None
        return open_client(config, config.organization)

    def register_run(
        self, samples: fo.core.collections.SampleCollection, key: str, overwrite: bool = True, cleanup: bool = True
    ) -> None:
        """Plans the first round and enters the run; an upload that was cut off under the same key is taken up again.

        Raises:
            LabelPropError: the samples, or what is asked for, do not fit; the dataset is as it was
            ValueError: another run has this key
        """
        interrupted = self._interrupted_run(samples, key)
        if interrupted is not None:
            self._resumed = interrupted
            return
        self._plan = self._plan_round(samples, key)
        super().register_run(samples, key, overwrite=overwrite, cleanup=cleanup)

    def _interrupted_run(self, samples: fo.core.collections.SampleCollection, key: str) -> LabelPropResults | None:
        dataset = samples._root_dataset
        if key not in dataset.list_annotation_runs(method=self.config.name):
            return None
        self._get_run_doc(dataset, key).reload()
        results = dataset.load_annotation_results(key, cache=False)
        if results is None:
            # Killed between entering the run and its first ledger: nothing was sent yet.
            self.delete_run(dataset, key, cleanup=False)
            return None
        if not isinstance(results, LabelPropResults) or not results.ledger.rounds or results.ledger.uploaded:
            raise ConfigurationError(
                f"Annotation run with key {key!r} already exists. Bring it home with load_annotations({key!r}), take "
                f"another key, or forget it with delete_annotation_run({key!r})."
            )
        differing = self._differences(results.ledger.asked)
        if results.ledger.url != self.url():
            differing.append(f"url={results.ledger.url!r}")
        if differing:
            raise ConfigurationError(
                f"The upload of run {key!r} was interrupted, and it was called with other settings then: "
                f"{', '.join(differing)}. Call it with those to go on, or give it up with "
                f"dataset.load_annotation_results({key!r}).cleanup(force=True) and "
                f"dataset.delete_annotation_run({key!r})."
            )
        logger.info("The upload of run %r was interrupted; going on where it stopped.", key)
        results.use_api(self.connect_to_api())
        return results

    def _asked(self) -> dict[str, Any]:
        """The settings as the caller gave them; planning completes them."""
        asked: dict[str, Any] = json.loads(json.dumps(self.config.serialize(), default=str))
        # How to connect may differ from call to call.
        return {name: value for name, value in asked.items() if name not in ("url", "verify", "timeout")}

    def _differences(self, before: Mapping[str, Any]) -> list[str]:
        """The settings of an earlier call that differ from this one's."""
        now = self._asked()
        return [
            f"{name}={before[name]!r}"
            for name in before
            if json.dumps(before[name], default=str) != json.dumps(now.get(name), default=str)
        ]

    def url(self) -> str:
        """The address of the server that the run goes to."""
        return resolve_url(self.config.url)

    def _plan_round(
        self, samples: fo.core.collections.SampleCollection, key: str
    ) -> tuple[list[FrameSequence], Ledger]:
        config, dataset = self.config, samples._root_dataset
        asked = self._asked()
        project_id, schema = self._settle_schema(samples)
        sequences = sequences_of(samples, sort_field=config.sort_field, media_field=config.media_field)
        independent = self.is_independent(sequences, schema)
        if independent or not schema.propagated:
            config.engine = NO_ENGINE
        self.settle_outputs(dataset, schema)
        if config.job_reviewers and not config.review:
            logger.warning(
                "job_reviewers get the jobs of reviews, and this run sends none by itself. Pass review=True, or call "
                "results.request_review()."
            )
        if config.review and not config.outputs():
            raise ConfigurationError(
                "review=True sends propagated labels to reviewers, and this run propagates nothing. Leave it out, or "
                "annotate detections, instances or polygons of a sequence with an engine."
            )
        if config.gt_field is not None:
            field = f"{FRAMES_PREFIX}{config.gt_field}" if samples._is_frames else config.gt_field
            if dataset.get_field(field) is None:
                raise ConfigurationError(
                    f"gt_field={config.gt_field!r} is no field of {dataset.name!r}. Leave it out, or name one."
                )
            config.gt_field = field
        limits = config.frame_limits()
        limits.check_paths(dataset, config.media_field)
        planned: list[tuple[FrameSequence, list[PlannedSegment]]] = []
        for sequence, segments in workflow.plan_exemplars(
            samples,
            sort_field=config.sort_field,
            segments_field=config.segments_field,
            segmentation="none" if independent else config.segmentation,
            exemplars=config.exemplars or (None if config.propagates else "all"),
            media_field=config.media_field,
            independent=independent,
            label_field=next((f.label_field for f in schema if f.label_field.startswith(FRAMES_PREFIX)), None),
            allowed=partial(limits.allowed, dataset),
        ):
            planned.append(
                (
                    sequence,
                    [
                        PlannedSegment(segment.start, segment.stop, label, tuple(chosen))
                        for segment, label, chosen in segments
                    ],
                )
            )
        for sequence, parts in planned:
            places = _places(sequence, parts)
            for field in schema:
                renew_shared_ids(dataset, field, places, sequence.media_type)
        ledger = plan_exemplar_round(
            samples,
            planned,
            schema,
            url=self.url(),
            name=config.task_name or f"{dataset.name} {key}",
            segment_size=config.segment_size,
            task_size=config.task_size,
            independent=independent,
        )
        ledger.project_id, ledger.asked = project_id, asked
        return [sequence for sequence, _ in planned], ledger

    def _settle_schema(self, samples: fo.core.collections.SampleCollection) -> tuple[int | None, RunSchema]:
        """Completes the label schema in the config by what FiftyOne does not put there, and checks it.

        Returns:
            the number of the project that the tasks go to, where there is one, and the schema
        """
        config, dataset = self.config, samples._root_dataset
        config.label_schema = plain_schema(config.label_schema)
        if samples._is_frames:
            # Frames are written to their videos, where the fields are spelled so.
            config.label_schema = {f"{FRAMES_PREFIX}{name}": info for name, info in config.label_schema.items()}
        kinds = {field.label_field: field.kind for field in config.schema()}
        for name, info in config.label_schema.items():
            if info.get("existing_field") and kinds[name].has_index:
                plain = name.removeprefix(FRAMES_PREFIX) if samples._is_frames else name
                info.setdefault(_INDEX_EDITS, self._index_edits.get(plain, self._any_index_edits))
        paths = {name: kind.path(name) for name, kind in kinds.items() if kind.shape == "points"}
        config.label_schema = with_skeletons(config.label_schema, dataset, paths)
        project_id = self._inherit_project()
        schema = config.schema()
        for field in schema:
            if field.label_field.startswith(FRAMES_PREFIX) and not dataset._contains_videos(any_slice=True):
                raise ConfigurationError(
                    f"{field.label_field!r} is a field of video frames, and {dataset.name!r} holds images. Use "
                    f"label_field={field.plain_name!r}."
                )
            held = getattr(dataset.get_field(field.label_field), "document_type", None)
            if held in (fo.TemporalDetection, fo.TemporalDetections):
                raise ConfigurationError(
                    f"{field.label_field!r} of {dataset.name!r} is a field of fo.{held.__name__}. A clips view shows "
                    f"it as classifications, which can't be written back. Annotate another field."
                )
        return project_id, schema

    def _inherit_project(self) -> int | None:
        """The project that the tasks go to, where it exists; the run then annotates what the project's labels say.

        Raises:
            ConfigurationError: there is no project of the number that was given
        """
        config = self.config
        if config.project_id is None and not config.project_name:
            return None
        client = self.connect_to_api()
        project_id = config.project_id
        if project_id is None:
            found = client.find_project(config.project_name)
            if found is None:
                return None
            project_id = found.id
        try:
            labels = client.labels(project_id=project_id)
        except NotFound as error:
            raise ConfigurationError(
                f"CVAT has no project {project_id} that this login can see. Check project_id, or use project_name=."
            ) from error
        if not labels:
            raise ConfigurationError(
                f"CVAT project {project_id} has no labels that a task could take over. Add some there, or let the run "
                f"make a project of its own with project_name=."
            )
        config.label_schema = inherited_schema(config.label_schema, labels)
        schema = config.schema()
        unnumbered = [
            label.name
            for label in labels
            if any(field.kind.has_index for field, _ in schema.owners(label.name))
            and INDEX_ATTRIBUTE not in {attribute.name for attribute in label.attributes}
        ]
        if unnumbered and config.propagates:
            logger.warning(
                "The labels %s of CVAT project %d have no attribute %r (an immutable number from 0, by default 0), "
                "with which annotators say that shapes on several frames are one object. Tracks are one object all the "
                "same; every mask or set of points that is drawn anew will be an object of its own.",
                ", ".join(map(repr, unnumbered)),
                project_id,
                INDEX_ATTRIBUTE,
            )
        return project_id

    def is_independent(self, sequences: Sequence[FrameSequence], schema: RunSchema) -> bool:
        """Whether the samples are images that nothing orders: pictures of their own, not frames of one scene."""
        first = sequences[0]
        if first.key != COLLECTION_KEY or self.config.sort_field is not None or self.config.segments_field is not None:
            return False
        if not self.config.propagates or not schema.propagated:
            return True
        first.check(uniform=False)
        if len(first) == 1:
            return True
        if len(set(first.frame_sizes)) == 1:
            logger.warning(
                "The %d images of this view are taken for frames of one scene: some are annotated, and the others are "
                "filled from those. Pass engine='none' for pictures that have nothing to do with each other.",
                len(first),
            )
            return False
        logger.warning(
            "The %d images of this view differ in size and no sort_field orders them, so each is taken for a picture "
            "of its own: all of them go to CVAT, and nothing is propagated. Pass engine='none' to say so.",
            len(first),
        )
        return True

    def settle_outputs(self, dataset: fo.Dataset, schema: RunSchema) -> None:
        """Checks where propagated labels go, and writes it down in the config."""
        config = self.config
        fields = [field.label_field for field in schema.propagated] if config.propagates else []
        asked = config.output_field
        if isinstance(asked, Mapping):
            unknown = sorted(set(asked) - set(fields))
            if unknown:
                raise ConfigurationError(
                    f"output_field names {unknown[0]!r}, which the run does not propagate; it propagates "
                    f"{', '.join(map(repr, fields)) or 'nothing'}."
                )
        elif asked is not None and len(fields) > 1:
            raise ConfigurationError(
                f"This run propagates {len(fields)} fields, got one output_field={asked!r}. Give a dict: "
                f"output_field={{{', '.join(f'{name!r}: ...' for name in fields)}}}."
            )
        given = asked if isinstance(asked, Mapping) else dict.fromkeys(fields, asked)
        outputs = {name: workflow.checked_output_field(dataset, name, given.get(name)) for name in fields}
        taken = [name for name in outputs.values() if name in {field.label_field for field in schema}]
        if taken or len(set(outputs.values())) < len(outputs):
            raise ConfigurationError(
                f"Propagated labels need a field of their own for each field, got output_field={asked!r}. Name others."
            )
        config.output_field = next(iter(outputs.values()), None) if len(outputs) < 2 else outputs

    def upload_annotations(
        self, samples: fo.core.collections.SampleCollection, anno_key: str, launch_editor: bool = False
    ) -> LabelPropResults:
        """Brings the planned tasks to CVAT.

        Where that fails, everything that was made in CVAT is deleted and the key is free again; where even that is
        not possible, or the user interrupts, the run stays and ``annotate()`` with the same key goes on with it.
        """
        if self._resumed is not None:
            results, sequences = self._resumed, None
        elif self._plan is not None:
            planned, ledger = self._plan
            results = LabelPropResults(samples, self.config, anno_key, {}, ledger.to_dict(), backend=self)
            sequences = {sequence.key: sequence for sequence in planned}
        else:
            raise ConfigurationError("upload_annotations() needs register_run() first; call view.annotate() instead.")
        try:
            results.save()
            upload(results, sequences)
        except Exception:
            # People may have worked in what an earlier call brought to CVAT; it stays for the next try.
            if self._resumed is None:
                self._give_up(samples, anno_key, results)
            raise
        if launch_editor:
            results.launch_editor()
        return results

    def _give_up(self, samples: fo.core.collections.SampleCollection, anno_key: str, results: LabelPropResults) -> None:
        try:
            results.cleanup(force=True)
        except Exception as error:
            logger.warning(
                "The upload failed, and what it had made in CVAT could not be deleted (%s). Call annotate() with the "
                "key %r again to go on where it stopped.",
                error,
                anno_key,
            )
            return
        self.delete_run(samples._root_dataset, anno_key, cleanup=False)

    def cleanup(self, samples: fo.core.collections.SampleCollection, key: str) -> None:
        """Tells what stays in CVAT when a run is deleted; deleting it there is ``results.cleanup()``."""
        results = samples._root_dataset.load_annotation_results(key)
        if not isinstance(results, LabelPropResults):
            return
        left = [str(task.id) for task in results.ledger.tasks() if task.id is not None and not task.adopted]
        if left:
            logger.warning(
                "The run %r is forgotten, but its tasks are still in CVAT at %s: %s. Delete them there; next time, "
                "call results.cleanup() first.",
                key,
                results.ledger.url,
                ", ".join(left),
            )

    def download_annotations(self, results: LabelPropResults) -> dict[str, Any]:
        """Collects finished jobs; FiftyOne merges what this returns, then the run's results do the rest."""
        return results.collect()

    @classmethod
    def save_run_results(
        cls,
        samples: fo.core.collections.SampleCollection,
        key: str | None,
        run_results: Any,
        overwrite: bool = True,
        cache: bool = True,
    ) -> None:
        """Saves results without a moment in which there are none; at the end of a load, fills the frames first."""
        if key is None:
            return
        if isinstance(run_results, LabelPropResults):
            # FiftyOne saves at the end of a load, when every field is merged.
            run_results.finish_load()
            cls.store_results(samples, key, run_results, cache=cache)
        else:
            super().save_run_results(samples, key, run_results, overwrite=overwrite, cache=cache)

    @classmethod
    def store_results(
        cls,
        samples: fo.core.collections.SampleCollection,
        key: str,
        run_results: LabelPropResults,
        cache: bool = True,
    ) -> None:
        """Writes results down as they are, in the place of the old ones.

        FiftyOne deletes the old ones before it writes the new, so a process that is killed in between has lost its
        ledger.
        """
        run_doc = cls._get_run_doc(samples, key)
        old = run_doc.results
        if not old:
            super().save_run_results(samples, key, run_results, cache=cache)
            return
        # Plain JSON: FiftyOne's own way through BSON types takes several times as long.
        content = json.dumps(run_results.serialize()).encode()
        old_id, file_system = old.grid_id, old.fs
        new_id = file_system.put(content, content_type="application/json")
        run_doc._get_collection().update_one({"_id": run_doc.id}, {"$set": {"results": new_id}})
        run_doc.reload("results")
        file_system.delete(old_id)
        if cache:
            getattr(samples._root_dataset, cls._results_cache_field())[key] = run_results


def _places(sequence: FrameSequence, parts: Iterable[PlannedSegment]) -> dict[str, list[int]]:
    """The frames that people annotate: ids of samples, of videos with the numbers of the frames."""
    places: dict[str, list[int]] = {}
    for part in parts:
        for position in part.exemplars:
            ref = sequence.frames[position]
            places.setdefault(ref.sample_id, []).append(int(ref.frame_number or 0))
    return places


__all__ = ["JOB_STATES", "LabelPropBackend", "LabelPropBackendConfig", "LabelPropResults"]
