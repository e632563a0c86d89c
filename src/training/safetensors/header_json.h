// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "files/json_events.h"

namespace lockstep::training {

/// The header of a file of tensors as its JSON has it: nothing has been compared yet. Fields that
/// the format does not know are passed over, as by the reference.
struct HeaderJson {
  struct Tensor {
    std::optional<std::string> dtype;
    std::optional<std::vector<std::uint64_t>> shape;
    std::optional<std::vector<std::uint64_t>> data_offsets;
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

[[nodiscard]] HeaderJson parse_header(std::string_view text, const files::JsonFail& fail);

/// The index of several files: which of them has a tensor, by the tensor's name.
[[nodiscard]] std::map<std::string, std::string> parse_index(std::string_view text,
                                                             const files::JsonFail& fail);

}  // namespace lockstep::training
