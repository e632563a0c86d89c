// SPDX-License-Identifier: BSD-3-Clause
#include <c10/core/Layout.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "files/bounded_view.h"
#include "files/json_events.h"
#include "training/safetensors/dtypes.h"
#include "training/safetensors/header.h"

namespace lockstep::training {
namespace {

constexpr std::size_t kMaxNameBytes = files::JsonLimits{}.name_bytes;
constexpr std::size_t kMaxNames = files::JsonLimits{}.names;
constexpr std::int64_t kLeastAlignment = 8;
constexpr std::int64_t kMostAlignment = 1 << 20;

const SafetensorsDtype& check(const std::string& name, const at::Tensor& tensor) {
  const auto text = [&] { return "the tensor " + files::in_quotes(name) + " "; };
  TORCH_CHECK(name.size() <= kMaxNameBytes, text(), "has a name of ", name.size(),
              " bytes; a file takes names of at most ", kMaxNameBytes);
  TORCH_CHECK(name != "__metadata__", text(), "has the name that the format keeps for metadata");
  TORCH_CHECK(tensor.defined(), text(), "is not defined");
  TORCH_CHECK(tensor.layout() == c10::kStrided, text(), "is ", tensor.layout(),
              "; a file takes dense tensors: give it those that this one is made of");
  TORCH_CHECK(!tensor.is_quantized(), text(),
              "is quantized; a file takes its int_repr() and its scales as tensors of their own");
  TORCH_CHECK(!tensor.is_meta(), text(), "is on the meta device and has no values");
  const SafetensorsDtype* dtype = find_safetensors_dtype(tensor.scalar_type());
  TORCH_CHECK(dtype != nullptr, text(), "is of dtype ", tensor.scalar_type(),
              ", which the format does not have");
  TORCH_CHECK(dtype->numbers_per_element() == 1 || tensor.dim() > 0, text(), "of dtype ",
              tensor.scalar_type(), " has no dimension; the format counts its numbers in the last");
  return *dtype;
}

std::string entry(const std::string& name, const at::Tensor& tensor, const SafetensorsDtype& dtype,
                  std::uint64_t begin) {
  std::string shape;
  for (std::int64_t i = 0; i < tensor.dim(); ++i) {
    const bool is_last = i + 1 == tensor.dim();
    const auto size = tensor.size(i) * (is_last ? dtype.numbers_per_element() : 1);
    if (i > 0) shape += ',';
    shape += std::to_string(size);
  }
  std::string text = files::json_string(name);
  text += ":{\"dtype\":\"";
  text += dtype.name;
  text += "\",\"shape\":[" + shape;
  text += "],\"data_offsets\":[" + std::to_string(begin);
  text += "," + std::to_string(begin + tensor.nbytes());
  return text + "]}";
}

std::string metadata_entry(const std::map<std::string, std::string>& metadata) {
  std::string text;
  for (const auto& [key, value] : metadata) {
    TORCH_CHECK(key.size() <= kMaxNameBytes, "the key ", files::in_quotes(key),
                " of the metadata has ", key.size(), " bytes; a file takes ", kMaxNameBytes);
    text += text.empty() ? "\"__metadata__\":{" : ",";
    text += files::json_string(key) + ":" + files::json_string(value);
  }
  return text + "}";
}

/// The length, and the object of these entries with blanks behind it, so that what follows is
/// aligned.
std::string with_length(std::string entries, std::int64_t alignment) {
  std::string text(1, '{');
  text += entries;
  text += '}';
  const auto step = static_cast<std::uint64_t>(alignment);
  const auto whole = (kLengthBytes + text.size() + step - 1) / step * step;
  text.resize(static_cast<std::size_t>(whole - kLengthBytes), ' ');
  TORCH_CHECK(text.size() <= kMaxHeaderBytes, "the names of these tensors need a header of ",
              text.size(), " bytes; a file has at most ", kMaxHeaderBytes,
              ": save_safetensors_shards writes several");
  std::string length(kLengthBytes, '\0');
  files::put_little_endian(std::as_writable_bytes(std::span(length)), text.size());
  return length + text;
}

}  // namespace

PlannedFile plan_file(const std::map<std::string, at::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata, std::int64_t alignment) {
  TORCH_CHECK(alignment >= kLeastAlignment && alignment <= kMostAlignment &&
                  (alignment & (alignment - 1)) == 0,
              "SaveSafetensorsOptions: alignment is ", alignment, "; it must be a power of 2 from ",
              kLeastAlignment, " to ", kMostAlignment);
  TORCH_CHECK(tensors.size() < kMaxNames && metadata.size() < kMaxNames, "a file takes fewer than ",
              kMaxNames, " tensors; these are ", tensors.size());
  std::vector<std::tuple<int, const std::string*, const SafetensorsDtype*>> order;
  for (const auto& [name, tensor] : tensors) {
    const SafetensorsDtype& dtype = check(name, tensor);
    order.emplace_back(-dtype.rank, &name, &dtype);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::tie(std::get<0>(a), *std::get<1>(a)) < std::tie(std::get<0>(b), *std::get<1>(b));
  });
  PlannedFile plan;
  std::string text = metadata.empty() ? "" : metadata_entry(metadata);
  std::uint64_t begin = 0;
  for (const auto& [rank, name, dtype] : order) {
    const at::Tensor& tensor = tensors.at(*name);
    if (!text.empty()) text += ',';
    text += entry(*name, tensor, *dtype, begin);
    begin += tensor.nbytes();
    plan.tensors.emplace_back(*name, tensor);
  }
  plan.header = with_length(std::move(text), alignment);
  plan.bytes = plan.header.size() + begin;
  return plan;
}

}  // namespace lockstep::training
