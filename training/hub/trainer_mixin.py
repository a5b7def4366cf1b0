"""How the trainer pushes: complete revisions without a pickle, in the background while it trains."""

from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import run_as_future
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..utils.files import scratch_prefix
from .model_card import write_model_card
from .repository import BEST_SUBFOLDER, WEIGHTS, copy_files, prepare_repository, published_files, push_files

logger = logging.get_logger(__name__)


class HubMixin:
    """
    Mixin of a `Trainer`. Unlike in the stock one,

    - a wrong token, missing write access or a repository of another kind of model ends the run before it begins;
    - with `hub_strategy="every_save"` each checkpoint is one commit, with code, card and training state, made in the
      background; when it fails, training warns and goes on;
    - the last commit holds the final model with its results and deletes the training state.
    """

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create and check the repository, see `prepare_repository`."""
        if self.is_world_process_zero():
            args, self.push_in_progress = self.args, None
            self.hub_model_id = prepare_repository(
                args.hub_model_id or Path(args.output_dir).absolute().name,
                args.hub_private_repo if private is None else private,
                token or args.hub_token,
                args.hub_revision,
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """
        Push a checkpoint as one commit.

        Overrides a private method because no public hook replaces the upload: the stock one pickles the arguments and
        uploads all of `output_dir`, stray files included, and `on_save` of a callback comes after it.
        """
        if self.args.hub_strategy == HubStrategy.END:
            return
        self.accelerator.wait_for_everyone()  # each process writes its random state into the checkpoint
        if not self.is_world_process_zero():
            return
        is_busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        staged = TemporaryDirectory(
            dir=self.args.output_dir, prefix=scratch_prefix()
        )  # the checkpoint may be rotated away
        self._stage(Path(checkpoint_folder), Path(staged.name))
        job = run_as_future(self._push_staged, staged, f"Training in progress, step {self.state.global_step}")
        self.push_in_progress = PushInProgress([*self.push_in_progress.jobs, job] if is_busy else [job])

    def _stage(self, checkpoint: Path, staged: Path) -> None:
        """Copy what the revision of a checkpoint holds, without paths of this machine."""
        copy_files(published_files(checkpoint, with_training_state=True), staged)
        best = self.state.best_model_checkpoint
        if best is not None and Path(best).name != checkpoint.name:
            files = [file for pattern in ("config.json", *WEIGHTS) for file in Path(best).glob(pattern)]
            copy_files({f"{BEST_SUBFOLDER}/{file.name}": file for file in files}, staged)
        write_model_card(staged, self.hub_model_id)

    def _push_staged(self, staged: TemporaryDirectory, message: str) -> str:
        with staged as folder:
            files = published_files(folder, with_training_state=True)
            try:
                return push_files(files, self.hub_model_id, message, self.args.hub_token, self.args.hub_revision)
            except (OSError, ValueError) as error:
                logger.warning(f"{message}: {error}. Training goes on; the checkpoint is in {self.args.output_dir}.")
                raise

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str | Future | None:
        """
        Save the final model and push it with its card and the results beside it.

        Returns:
            URL of the commit; a future of it with `blocking=False`; None on every process but the first.

        Raises:
            HubError: the Hub is out of reach or refuses. The folder is unchanged; `publish.py` pushes it again.
        """
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.create_model_card()
        self._finish_current_push()
        where = (self.hub_model_id, commit_message, token or self.args.hub_token, revision or self.args.hub_revision)
        files = published_files(self.args.output_dir)
        return push_files(files, *where) if blocking else run_as_future(push_files, files, *where)

    def create_model_card(self) -> None:
        """Write the card, unless there is one (`run_training` writes it with the results)."""
        folder = Path(self.args.output_dir)
        if self.is_world_process_zero() and not (folder / "README.md").exists():
            write_model_card(folder, self.hub_model_id or folder.absolute().name)
