"""Where a trainer works, and what it says of kernels that are not to be had there."""

from __future__ import annotations

import pytest

from workbench.errors import DefinitionError


@pytest.mark.parametrize("deterministic", [True, False])
def test_on_a_cpu_nothing_is_asked_of_torch(deterministic, sft, torch):
    trainer = sft(steps=1, deterministic=deterministic)
    assert trainer.device.type == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()


def test_on_a_cpu_a_resume_is_exact_whatever_was_asked(sft, tmp_path):
    def trainer():
        return sft(steps=2, deterministic=False, arguments={"output_dir": tmp_path})

    trainer().train()
    again = trainer()
    assert again.resume()
    assert again.inexact == []


def test_an_operation_without_a_deterministic_kernel_is_one_line_with_the_remedy(sft):
    trainer = sft(steps=2)

    def fail(*_):
        raise RuntimeError(
            "cumsum_cuda_kernel does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation"
        )

    trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(DefinitionError) as caught:
        trainer.train()
    assert str(caught.value) == "cumsum_cuda_kernel has no deterministic kernel on this GPU; set deterministic: false"
