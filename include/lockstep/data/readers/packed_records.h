// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <lockstep/core/export.h>
#include <lockstep/data/readers/detail/packed_tensor.h>
#include <torch/arg.h>
#include <torch/data/example.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace lockstep::files {
class BoundedView;
}  // namespace lockstep::files

namespace lockstep::data {

class FileParts;

namespace detail {

class PackedFileWriter;

}  // namespace detail

/// What `PackedRecords` are told.
struct LOCKSTEP_API PackedRecordsOptions {
  /// Reads the whole file at opening and compares its checksum. Otherwise only the header's is.
  TORCH_ARG(bool, verify) = false;
};

/// Samples that have been decoded once and stored as they are, all of one dtype and shape. A sample
/// is a copy of a part of the mapped file, nothing else; all processes of a host share its pages.
/// It must not be made shorter meanwhile.
///
/// The file: 256 bytes of header, then records of `stride` bytes, each the bytes of data and those
/// of target, padded to 8. Header, little-endian: "LSPACKED", u32 version 1, u32 256; for data and
/// for target a u32 dtype, a u32 number of dimensions (at most 8) and 8 u64 sizes, 0 where unused;
/// u64 count, u64 stride; u32 CRC-32 of all records, zeros, and in the last 4 bytes a u32 CRC-32 of
/// the 252 before. dtypes: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 6 float16, 7 bfloat16,
/// 8 float32, 9 float64.
///
/// Thread-safety: const members may be called from several threads. Copies share the file.
class LOCKSTEP_API PackedRecords {
 public:
  /// Opens a file that `PackedRecordsWriter` has written.
  /// Throws: `c10::Error` naming the file, the byte, what was expected and what was found.
  explicit PackedRecords(const std::string& path, const PackedRecordsOptions& options = {});

  /// A copy of one sample.
  /// Shapes: those of the samples that were packed.
  /// Throws: `c10::Error` when `index` is not below `size()`.
  [[nodiscard]] torch::data::Example<> get(std::size_t index) const;
  /// Writes what `get(index)` would return straight to where it belongs.
  /// Throws: as `get`, and when a destination has another size than the sample.
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) const;

  /// Samples.
  [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(count_); }
  /// Names the bytes of a sample (`DataLoaderOptions::read_ahead`).
  /// Throws: `c10::Error` when `index` is not below `size()`.
  void files_of(std::size_t index, FileParts& parts) const;
  /// File, record and byte of a sample, for messages.
  [[nodiscard]] std::string describe(std::size_t index) const;
  /// Reads everything and compares the checksum.
  /// Throws: `c10::Error` naming the file when a record is damaged.
  void verify() const;

 private:
  [[nodiscard]] std::uint64_t offset_of(std::size_t index) const;

  std::shared_ptr<const files::BoundedView> file_;
  detail::PackedTensor data_;
  detail::PackedTensor target_;
  std::uint64_t count_ = 0;
  std::uint64_t stride_ = 0;
  std::uint32_t checksum_ = 0;
};

/// Writes what `PackedRecords` reads. The file gets its name in `finish`, after its bytes are on
/// the disk: there is never a half-written one.
///
/// Thread-safety: none.
/// Owns: the unfinished file, which its destructor removes.
class LOCKSTEP_API PackedRecordsWriter {
 public:
  /// Begins a file.
  /// Throws: `c10::Error` naming the file when it cannot be made.
  explicit PackedRecordsWriter(const std::string& path);
  /// Removes the file unless `finish` was called.
  ~PackedRecordsWriter();
  PackedRecordsWriter(const PackedRecordsWriter&) = delete;
  PackedRecordsWriter& operator=(const PackedRecordsWriter&) = delete;

  /// Adds a sample: tensors of any device and strides.
  /// Throws: `c10::Error` for a dtype that cannot be packed, more than 8 dimensions, and naming the
  /// sample when it has another dtype or shape than the first; all these leave the writer as it
  /// was. Also when the disk is full; the writer cannot be used any more then.
  void add(const torch::data::Example<>& sample);
  /// Gives the file its name.
  /// Blocks: until the disk has it.
  /// Throws: `c10::Error` when there is no sample, when writing has failed before, and when the
  /// file cannot be finished.
  void finish();
  /// Samples that were added.
  [[nodiscard]] std::size_t size() const noexcept;

 private:
  std::unique_ptr<detail::PackedFileWriter> writer_;
};

/// Packs all samples of a map-style dataset, in order. Returns how many.
/// Throws: `c10::Error` as the writer does, whatever the dataset throws, and when it does not know
/// its size. Then there is no file at `path`, or the one that was there before.
template <class Dataset>
std::size_t pack(Dataset&& dataset, const std::string& path) {
  const std::optional<std::size_t> size = dataset.size();
  TORCH_CHECK(size.has_value(), "pack: the dataset does not know its size");
  PackedRecordsWriter writer(path);
  for (std::size_t i = 0; i < *size; ++i) writer.add(dataset.get(i));
  writer.finish();
  return *size;
}

}  // namespace lockstep::data
