"""What is said where a package or a device is absent."""

import pytest
from transformers.utils import is_flash_attn_2_available

from limssr.training.utils.loading import loading_options


@pytest.mark.usefixtures("without_bitsandbytes")
def test_quantised_loading_says_what_it_needs():
    with pytest.raises(ValueError, match="'4bit' needs the package bitsandbytes"):
        loading_options(quantization="4bit")


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_flash_attention_says_what_it_needs_and_what_does_instead():
    with pytest.raises(ValueError, match=r"needs an NVIDIA or AMD GPU and the package flash-attn.*use sdpa"):
        loading_options("bfloat16", "flash_attention_2")
