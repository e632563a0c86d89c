// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gpt.h"

#include <filesystem>
#include <string>

namespace example {

/// The name that `Gpt` has for a tensor in a file of GPT-2. Hugging Face writes two kinds of files:
/// of the model alone, as this one is, and of the model with its head, where names begin with
/// `transformer.`. Empty for what is no weight of its own: the masks of attention, and the head
/// that is tied to `wte`.
[[nodiscard]] std::string gpt_name(const std::string& hugging_face);

/// The shape of the model in a file of GPT-2. `heads`: a file does not tell them; 0 means a head
/// for each 64 columns, as all sizes of GPT-2 have.
/// Throws: `c10::Error` where the file lacks a table of tokens or of positions, or has no layers.
[[nodiscard]] GptOptions shape_of(const std::filesystem::path& file, int64_t heads = 0);

/// Copies the weights of a file of GPT-2 into `net`.
/// Throws: as `lockstep::training::load_state`.
void load_gpt(Gpt& net, const std::filesystem::path& file);

}  // namespace example
