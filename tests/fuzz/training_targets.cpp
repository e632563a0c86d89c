// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <stdexcept>
#include <string>
#include <string_view>

#include "fuzz/fuzz_target.h"
#include "training/safetensors/header.h"
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

constexpr const char* kTwoTensors =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BOOL","shape":[5],"data_offsets":[24,29]}})";
constexpr const char* kOddTensors =
    R"({"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"e":{"dtype":"F8_E4M3","shape":[0,4],)"
    R"("data_offsets":[8,8]},"q":{"dtype":"F4","shape":[2,6],"data_offsets":[8,14]}}  )";

FuzzTarget safetensors_target() {
  return {"safetensors",
          {with_length(kTwoTensors, 29), with_length(kOddTensors, 14), with_length("{}", 0)},
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

// As `safetensors`, without a file: many times as many runs in the same time. An input is the bytes
// of the data, of which there are at most 65,535, and the header.
FuzzTarget safetensors_header_target() {
  const auto input_of = [](const std::string& header, std::uint8_t data) {
    Bytes bytes{data, 0};
    bytes.insert(bytes.end(), header.begin(), header.end());
    return bytes;
  };
  return {"safetensors_header",
          {input_of(kTwoTensors, 29), input_of(kOddTensors, 14), input_of("{}", 0)},
          [](const Bytes& input) {
            TORCH_CHECK(input.size() >= 2, "there is no size");
            const std::string_view text(reinterpret_cast<const char*>(input.data()) + 2,
                                        input.size() - 2);
            const std::uint64_t data = input[0] | std::uint64_t{input[1]} << 8;
            const auto header = training::check_header(
                text, 8 + text.size() + data,
                [](std::uint64_t, const std::string&, const std::string&) { throw Refused(); });
            std::uint64_t bytes = 0;
            for (const auto& [name, tensor] : header.tensors) bytes += tensor.bytes;
            if (bytes != data)
              throw std::logic_error("the tensors have other bytes than there are");
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
  return {safetensors_target(), safetensors_header_target(), safetensors_index_target()};
}

}  // namespace lockstep::fuzz
