// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <stdexcept>
#include <string>

#include "fuzz/fuzz_target.h"
#include "training/safetensors/header_json.h"

namespace lockstep::fuzz {
namespace {

using training::LoadSafetensorsOptions;

Bytes with_length(const std::string& header, std::size_t data) {
  Bytes bytes(8);
  bytes[0] = static_cast<std::uint8_t>(header.size() & 0xFF);
  bytes[1] = static_cast<std::uint8_t>(header.size() >> 8);
  bytes.insert(bytes.end(), header.begin(), header.end());
  bytes.resize(bytes.size() + data, 1);
  return bytes;
}

/// Reads every byte that the tensors claim.
void use(const std::map<std::string, torch::Tensor>& tensors) {
  std::uint64_t sum = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto* bytes = static_cast<const std::uint8_t*>(tensor.const_data_ptr());
    for (std::size_t i = 0; i < tensor.nbytes(); ++i) sum += bytes[i];
  }
  if (sum == ~std::uint64_t{0}) throw std::logic_error("never, but the compiler cannot know");
}

FuzzTarget safetensors_target() {
  const Bytes two = with_length(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BOOL","shape":[5],"data_offsets":[24,29]}})",
      29);
  const Bytes odd = with_length(
      R"({"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"e":{"dtype":"F8_E4M3","shape":[0,4],)"
      R"("data_offsets":[8,8]},"q":{"dtype":"F4","shape":[2,6],"data_offsets":[8,14]}}  )",
      14);
  return {"safetensors",
          {two, odd, with_length("{}", 0)},
          [](const Bytes& input) {
            const auto path = as_file(input);
            const auto copied = training::load_safetensors(path);
            use(copied);
            use(training::load_safetensors(path, LoadSafetensorsOptions().memory_mapped(true)));
            if (copied.size() != training::read_safetensors_header(path).tensors.size()) {
              throw std::logic_error("the header has other tensors than the file");
            }
          },
          {}};
}

FuzzTarget safetensors_index_target() {
  const std::string index =
      R"({"metadata":{"total_size":29},"weight_map":{"a":"model-00001-of-00002.safetensors",)"
      R"("b":"model-00002-of-00002.safetensors"}})";
  return {"safetensors_index",
          {Bytes(index.begin(), index.end())},
          [](const Bytes& input) {
            const auto fail = [](const std::string& expected, const std::string& found) {
              TORCH_CHECK(false, "expected ", expected, ", found ", found);
            };
            static_cast<void>(training::parse_index(
                {reinterpret_cast<const char*>(input.data()), input.size()}, fail));
          },
          {}};
}

}  // namespace

std::vector<FuzzTarget> training_targets() {
  return {safetensors_target(), safetensors_index_target()};
}

}  // namespace lockstep::fuzz
