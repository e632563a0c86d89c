// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/arg.h>
#include <torch/data/example.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace lockstep::files {
class BoundedView;
}  // namespace lockstep::files

namespace lockstep::data {

class FileParts;

/// Says which dataset the files belong to, and which of its labels is the target.
enum class CifarLabels {
  Cifar10,         ///< records of 3073 bytes: label, pixels
  Cifar100Fine,    ///< records of 3074 bytes: coarse label, fine label, pixels; the target is fine
  Cifar100Coarse,  ///< the same records; the target is the coarse label
};

/// What a `CifarDataset` is told.
struct LOCKSTEP_API CifarDatasetOptions {
  /// A value for each of red, green and blue.
  using Channels = std::array<double, 3>;
  /// Leaves pixels uint8, as they are in the file; `mean` and `std` do not apply then.
  TORCH_ARG(bool, raw) = false;
  /// Subtracted from pixels in [0, 1]; a value for each of red, green and blue.
  TORCH_ARG(Channels, mean) = {0, 0, 0};
  /// Divides them afterwards; each greater than 0.
  TORCH_ARG(Channels, std) = {1, 1, 1};
};

/// Images and labels of CIFAR-10 and CIFAR-100 in their binary versions. The files are mapped, so
/// all processes of a host share them; they must not be made shorter meanwhile.
///
/// Thread-safety: const members may be called from several threads. Copies share the files.
/// Source: the description of the binary version at https://www.cs.toronto.edu/~kriz/cifar.html.
class LOCKSTEP_API CifarDataset {
 public:
  /// The records of `paths` one after the other.
  /// Throws: `c10::Error` naming a file that is empty or does not consist of whole records; for
  /// options out of range; without files.
  CifarDataset(const std::vector<std::string>& paths, CifarLabels labels,
               const CifarDatasetOptions& options = {});

  /// data_batch_1.bin to data_batch_5.bin, or test_batch.bin, of `folder` or of
  /// cifar-10-batches-bin in it.
  [[nodiscard]] static CifarDataset cifar10(const std::string& folder, bool train,
                                            const CifarDatasetOptions& options = {});
  /// train.bin or test.bin, of `folder` or of cifar-100-binary in it.
  [[nodiscard]] static CifarDataset cifar100(const std::string& folder, bool train,
                                             const CifarDatasetOptions& options = {},
                                             CifarLabels labels = CifarLabels::Cifar100Fine);

  /// One image and its label.
  /// Shapes: data float32 {3, 32, 32}, uint8 with `raw`; target int64 {}.
  /// Throws: `c10::Error` when `index` is not below `size()`, and naming file, byte and value of a
  /// label that does not exist.
  [[nodiscard]] torch::data::Example<> get(std::size_t index) const;
  /// Writes what `get(index)` would return straight to where it belongs.
  /// Throws: as `get`, and when a destination has another size than the sample.
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) const;

  /// Samples of all files.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// Names the bytes of a sample (`DataLoaderOptions::read_ahead`).
  /// Throws: `c10::Error` when `index` is not below `size()`.
  void files_of(std::size_t index, FileParts& parts) const;
  /// File, record and byte of a sample, for messages.
  [[nodiscard]] std::string describe(std::size_t index) const;

 private:
  static constexpr std::size_t kPixels = 3 * 32 * 32;

  struct Place {
    const files::BoundedView* file;
    std::uint64_t record;
    std::uint64_t offset;
  };
  [[nodiscard]] Place place(std::size_t index) const;
  [[nodiscard]] std::size_t label_bytes() const noexcept {
    return labels_ == CifarLabels::Cifar10 ? 1 : 2;
  }

  CifarLabels labels_;
  bool raw_;
  std::vector<std::shared_ptr<const files::BoundedView>> files_;
  std::vector<std::size_t> ends_;  // of each file, in samples
  std::size_t size_ = 0;
  std::array<std::array<float, 256>, 3> pixel_values_{};  // what each uint8 becomes, by channel
};

}  // namespace lockstep::data
