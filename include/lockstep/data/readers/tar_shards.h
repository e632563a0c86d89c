// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/arg.h>
#include <torch/data/example.h>

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::data {

class FileParts;

namespace detail {
struct TarShard;
}

/// What belongs to one sample of an archive. The bytes lie in the mapped archive: they are valid as
/// long as a copy of the `TarShards` lives.
struct TarSample {
  std::string_view key;  ///< name of its members up to the first dot, with folders as written there
  /// The members by their extension, in small letters: "jpg", "cls", "seg.png".
  std::map<std::string_view, std::span<const std::byte>> members;

  /// The bytes of one member.
  /// Throws: `c10::Error` naming the sample and what it has instead.
  [[nodiscard]] LOCKSTEP_API std::span<const std::byte> at(std::string_view extension) const;
};

/// What `TarShards` are told.
struct LOCKSTEP_API TarShardsOptions {
  /// Keeps each archive's index in a file beside it (its name and ".lockstep-index"), so that the
  /// next who opens it need not look at all its headers. An index that does not fit the archive's
  /// size and time of change, or is damaged, is made anew; where none can be written, none is kept.
  TORCH_ARG(bool, side_index) = false;
};

/// Samples in tar archives, named as WebDataset does: files next to each other whose names are
/// equal up to the first dot of their last part are one sample. Every sample is found at once, by
/// an index that is made when the archives are opened. Files without such a dot are passed over,
/// and so are those that begin with a dot, and all below a folder such as "__meta__".
///
/// The archives are mapped, so all processes of a host share them; they must not be made shorter
/// meanwhile. Nothing is unpacked.
///
/// Thread-safety: const members may be called from several threads if the decoder may. Copies share
/// archives and index.
/// Source: WebDataset's `tariterators.py` for what makes a sample.
class LOCKSTEP_API TarShards {
 public:
  /// Makes an example of the bytes of a sample.
  using Decoder = std::function<torch::data::Example<>(const TarSample& sample)>;

  /// `decoder` makes an example of the bytes; it runs in the workers.
  /// Throws: `c10::Error` naming archive, byte, what was expected and what was found: for damaged,
  /// truncated, compressed or joined archives, links, devices, sparse files, absolute names, names
  /// with "..", two members of one sample with the same extension, and more than 1000 members of
  /// one; when there is no sample.
  TarShards(const std::vector<std::string>& paths, Decoder decoder,
            const TarShardsOptions& options = {});

  /// What the decoder makes of a sample.
  /// Throws: `c10::Error` when `index` is not below `size()`, and what the decoder throws.
  [[nodiscard]] torch::data::Example<> get(std::size_t index) const;
  /// The bytes of a sample.
  /// Throws: `c10::Error` when `index` is not below `size()`.
  [[nodiscard]] TarSample sample(std::size_t index) const;

  /// Samples of all archives.
  [[nodiscard]] std::size_t size() const noexcept { return ends_.empty() ? 0 : ends_.back(); }
  /// Names the bytes of a sample (`DataLoaderOptions::read_ahead`).
  /// Throws: `c10::Error` when `index` is not below `size()`.
  void files_of(std::size_t index, FileParts& parts) const;
  /// Archive, key and members of a sample, for messages.
  [[nodiscard]] std::string describe(std::size_t index) const;

 private:
  struct Place {
    const detail::TarShard* shard;
    std::size_t number;  // of the sample within it
  };
  [[nodiscard]] Place place(std::size_t index) const;

  Decoder decoder_;
  std::vector<std::shared_ptr<const detail::TarShard>> shards_;
  std::vector<std::size_t> ends_;  // of each archive, in samples
};

}  // namespace lockstep::data
