// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/readers/tar_shards.h>

#include <algorithm>
#include <utility>

#include "data/readers/tar_index.h"
#include "files/bounded_view.h"

namespace lockstep::data {
namespace detail {

struct TarShard {
  TarShard(const std::string& path, bool side_index) : archive(path) {
    auto known = side_index ? TarIndex::load(archive) : std::nullopt;
    if (known) {
      index = std::move(*known);
      return;
    }
    index = TarIndex::of(archive);
    if (side_index) index.save(archive);
  }

  files::BoundedView archive;
  TarIndex index;
};

}  // namespace detail

std::span<const std::byte> TarSample::at(std::string_view extension) const {
  const auto found = members.find(extension);
  if (found != members.end()) return found->second;
  std::string others;
  for (const auto& [name, bytes] : members)
    others += (others.empty() ? "" : ", ") + files::in_quotes(name);
  TORCH_CHECK(false, "TarSample: sample ", files::in_quotes(key), " has no member ",
              files::in_quotes(extension), "; it has ", others);
}

TarShards::TarShards(const std::vector<std::string>& paths, Decoder decoder,
                     const TarShardsOptions& options)
    : decoder_(std::move(decoder)) {
  TORCH_CHECK(!paths.empty(), "TarShards: no archives are given; at least 1 is needed");
  TORCH_CHECK(decoder_ != nullptr, "TarShards: no decoder is given");
  std::size_t samples = 0;
  for (const auto& path : paths) {
    shards_.push_back(std::make_shared<const detail::TarShard>(path, options.side_index()));
    samples += shards_.back()->index.samples.size();
    ends_.push_back(samples);
  }
  TORCH_CHECK(samples > 0, paths.front(), ": holds no sample",
              paths.size() > 1 ? ", nor do the other archives" : "",
              "; samples are files whose names have a dot, such as 0001.jpg");
}

TarShards::Place TarShards::place(std::size_t index) const {
  TORCH_CHECK(index < size(), "TarShards: index ", index, " is not below the size ", size());
  const auto number =
      static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin());
  return {shards_[number].get(), index - (number == 0 ? 0 : ends_[number - 1])};
}

TarSample TarShards::sample(std::size_t index) const {
  const auto [shard, number] = place(index);
  TarSample result{shard->index.key(number), {}};
  for (const auto& member : shard->index.members_of(number)) {
    result.members.emplace(shard->index.extensions[member.extension],
                           shard->archive.bytes(member.offset, member.size, "a member"));
  }
  return result;
}

torch::data::Example<> TarShards::get(std::size_t index) const {
  return decoder_(sample(index));
}

// From the first byte of the first member to the last one of the last: they lie next to each other.
void TarShards::files_of(std::size_t index, FileParts& parts) const {
  const auto [shard, number] = place(index);
  const auto members = shard->index.members_of(number);
  if (members.empty()) return;
  const auto begin = members.front().offset;
  const auto end = members.back().offset + members.back().size;
  if (end > begin) parts.add(shard->archive.path(), begin, end - begin);
}

std::string TarShards::describe(std::size_t index) const {
  const auto [shard, number] = place(index);
  std::string text =
      shard->archive.path() + ": sample " + files::in_quotes(shard->index.key(number));
  const char* separator = ": ";
  for (const auto& member : shard->index.members_of(number)) {
    text += separator + shard->index.extensions[member.extension] + " at byte " +
            std::to_string(member.offset);
    separator = ", ";
  }
  return text;
}

}  // namespace lockstep::data
