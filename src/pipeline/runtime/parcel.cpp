// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/runtime/parcel.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace lockstep::pipeline {
namespace {

// No program sends this by accident: "pipeline" in ASCII.
constexpr std::int64_t kMark = 0x656e696c65706970;
// Behind the mark: the number of words, then the members of a parcel.
constexpr std::size_t kFixedWords = 9;
// Far above what tensors have; a broken description must not become a huge allocation.
constexpr std::int64_t kMostWords = std::int64_t{1} << 20;
constexpr std::int64_t kMostDimensions = 64;
constexpr std::int64_t kDefined = 1;
constexpr std::int64_t kNeedsGradient = 2;

/// Reads words one by one.
class Words {
 public:
  Words(const std::vector<std::int64_t>& words, int from) : words_(words), from_(from) {}

  [[nodiscard]] std::int64_t next(std::int64_t most) {
    const bool is_there = place_ < words_.size();
    const std::int64_t word = is_there ? words_[place_++] : -1;
    TORCH_CHECK(is_there && word >= 0 && word <= most, "pipeline: rank ", from_,
                " sent something else than the description of a microbatch");
    return word;
  }

 private:
  const std::vector<std::int64_t>& words_;
  int from_;
  std::size_t place_ = 2;
};

constexpr std::int64_t kAny = std::int64_t{1} << 48;

}  // namespace

std::vector<std::int64_t> describe_parcel(const Parcel& parcel) {
  std::vector<std::int64_t> words{kMark,
                                  0,
                                  parcel.stage,
                                  parcel.microbatch,
                                  parcel.batch.rows,
                                  parcel.batch.batch_rows,
                                  parcel.batch.microbatches,
                                  parcel.slot ? *parcel.slot + 1 : 0,
                                  static_cast<std::int64_t>(parcel.tensors.size())};
  for (std::size_t i = 0; i < parcel.tensors.size(); ++i) {
    const at::Tensor& tensor = parcel.tensors[i];
    const bool needs_gradient = i < parcel.needs_gradient.size() && parcel.needs_gradient[i];
    words.push_back((tensor.defined() ? kDefined : 0) | (needs_gradient ? kNeedsGradient : 0));
    if (!tensor.defined()) continue;
    words.push_back(static_cast<std::int64_t>(tensor.scalar_type()));
    words.push_back(tensor.dim());
    words.insert(words.end(), tensor.sizes().begin(), tensor.sizes().end());
  }
  words[1] = static_cast<std::int64_t>(words.size());
  words.resize(std::max(words.size(), kHeaderWords));
  return words;
}

std::int64_t words_of(const std::int64_t* header, int from) {
  TORCH_CHECK(header[0] == kMark && header[1] >= static_cast<std::int64_t>(kFixedWords) &&
                  header[1] <= kMostWords,
              "pipeline: rank ", from, " sent something else than the description of a microbatch");
  return header[1];
}

Parcel make_parcel(const std::vector<std::int64_t>& words, const MakeTensor& make, int from) {
  Words reader(words, from);
  Parcel parcel;
  parcel.stage = reader.next(kAny);
  parcel.microbatch = reader.next(kAny);
  parcel.batch.rows = reader.next(kAny);
  parcel.batch.batch_rows = reader.next(kAny);
  parcel.batch.microbatches = reader.next(kAny);
  const std::int64_t slot = reader.next(kAny);
  if (slot > 0) parcel.slot = slot - 1;
  const std::int64_t count = reader.next(kMostWords);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t flags = reader.next(kDefined | kNeedsGradient);
    parcel.needs_gradient.push_back((flags & kNeedsGradient) != 0);
    if ((flags & kDefined) == 0) {
      parcel.tensors.emplace_back();
      continue;
    }
    constexpr auto kTypes = static_cast<std::int64_t>(at::ScalarType::NumOptions) - 1;
    const auto dtype = static_cast<at::ScalarType>(reader.next(kTypes));
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(reader.next(kMostDimensions)));
    for (std::int64_t& size : sizes) size = reader.next(kAny);
    parcel.tensors.push_back(make(parcel.slot, sizes, dtype));
  }
  return parcel;
}

}  // namespace lockstep::pipeline
