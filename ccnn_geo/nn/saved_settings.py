"""Settings without which weights mean something else, kept with the `state_dict`."""

from __future__ import annotations

from typing import Any, cast


class SavedSettings:
    """Mixin for modules, before `nn.Module`, that keeps settings in the metadata of a `state_dict`.

    Loading weights into a module with other settings is an error, like loading weights of another
    size.
    """

    def saved_settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        cast(Any, super())._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]].update(self.saved_settings())

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load weights; another extent, spacing, cutoff or causality is an error, like a size."""
        for name, value in self.saved_settings().items():
            saved = local_metadata.get(name, value)
            if saved != value:
                error_msgs.append(
                    f"{name} mismatch for the kernel of {prefix[:-1] or 'the layer'}: {saved} in "
                    f"the state_dict, {value} in the model. Pass `dict(state_dict)`, which carries "
                    "no settings, to load the weights all the same."
                )
        cast(Any, super())._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
