// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "files/bounded_view.h"

namespace lockstep::data::detail {

/// Where the samples of an archive lie. Members next to each other whose names are equal up to the
/// first dot of their last part make up a sample; what follows that dot is the extension.
struct TarIndex {
  struct Member {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    std::uint32_t extension = 0;  // number in `extensions`
  };
  struct Sample {
    std::uint64_t key_end = 0;     // in `keys`; it begins where that of the sample before ends
    std::uint64_t member_end = 0;  // in `members`
  };

  std::vector<std::string> extensions;
  std::string keys;
  std::vector<Member> members;
  std::vector<Sample> samples;

  [[nodiscard]] std::string_view key(std::size_t sample) const {
    const auto begin = sample == 0 ? 0 : samples[sample - 1].key_end;
    return std::string_view(keys).substr(begin, samples[sample].key_end - begin);
  }
  [[nodiscard]] std::span<const Member> members_of(std::size_t sample) const {
    const auto begin = sample == 0 ? 0 : samples[sample - 1].member_end;
    return std::span(members).subspan(begin, samples[sample].member_end - begin);
  }

  /// Walks over the archive's headers.
  /// Throws: `c10::Error` as `TarReader`, and naming what a sample has twice.
  [[nodiscard]] static TarIndex of(const files::BoundedView& archive);

  /// Reads the index that `save` left beside the archive. Nothing when there is none, or it is
  /// damaged or of an archive of another size or time: then it must be made anew.
  [[nodiscard]] static std::optional<TarIndex> load(const files::BoundedView& archive);
  /// Leaves the index in a file beside the archive, for the next who opens it. Returns false where
  /// that cannot be done: it saves time only.
  bool save(const files::BoundedView& archive) const;
};

}  // namespace lockstep::data::detail
