// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <chrono>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lockstep {
class ProcessGroup;
}

namespace lockstep::training {

class BackgroundWriter;

/// What a `TensorBoard` is told.
struct TensorBoardOptions {
  /// A run that goes on from a checkpoint of this step: points of older files with this step or a
  /// later one are not shown any more.
  TORCH_ARG(std::optional<std::int64_t>, resume_at) = std::nullopt;
  /// How long values are collected before they are written, a second at most. A killed process
  /// loses what came in this time.
  TORCH_ARG(std::chrono::milliseconds, flush_interval) = std::chrono::milliseconds(200);
  /// Bytes of the queue between callers and the thread that writes.
  TORCH_ARG(std::int64_t, queue_bytes) = std::int64_t{4} << 20;
  /// Bytes of images, histograms and texts that may wait beside the queue.
  TORCH_ARG(std::int64_t, waiting_bytes) = std::int64_t{256} << 20;
  /// Stands at the end of the file's name.
  TORCH_ARG(std::string, suffix) = {};
  /// Scalars are written as doubles, which takes 20 bytes more each. Otherwise they are floats.
  TORCH_ARG(bool, double_precision) = false;
  /// With a group: each rank writes, rank 3 to the folder `rank3` in that of rank 0.
  TORCH_ARG(bool, every_rank) = false;
  /// Writes with the thread of this writer, instead of one of its own. `flush_interval` and
  /// `queue_bytes` are then the writer's `batch_delay` and `queue_bytes`.
  TORCH_ARG(std::shared_ptr<BackgroundWriter>, writer) = nullptr;
};

/// A number, a text, or true or false.
///
/// Thread-safety: a value.
class HyperparameterValue {
 public:
  /// True or false.
  HyperparameterValue(bool value) : value_(value) {}  // NOLINT(google-explicit-constructor)
  /// A number; TensorBoard has doubles only.
  template <typename Number>
  requires(std::integral<Number> || std::floating_point<Number>)
      HyperparameterValue(Number value)  // NOLINT(google-explicit-constructor)
      : value_(static_cast<double>(value)) {}
  /// A text.
  HyperparameterValue(std::string value)  // NOLINT(google-explicit-constructor)
      : value_(std::move(value)) {}
  /// A text.
  HyperparameterValue(const char* value)  // NOLINT(google-explicit-constructor)
      : value_(std::string(value)) {}

  /// What it is.
  [[nodiscard]] const std::variant<bool, double, std::string>& get() const { return value_; }

 private:
  std::variant<bool, double, std::string> value_;
};

/// Names and values, in the order in which they are shown.
using Hyperparameters = std::vector<std::pair<std::string, HyperparameterValue>>;

/// Writes a run for TensorBoard: scalars, histograms, images, texts and hyper-parameters.
///
///     lockstep::training::TensorBoard board("runs/a");
///     board.scalar("loss/train", loss, step);
///
/// A call makes the record and returns; a thread writes it. What is written survives the end of the
/// process in any way. Where the folder cannot be written later on, training goes on: values are
/// kept up to a bound, the newest are lost and counted, and `flush` and `close` say so.
///
/// Each board makes a file of its own in the folder and never goes on with an older one, whose last
/// record may be cut. One process at a time writes to a folder: TensorBoard follows the newest
/// file.
///
/// Tags are UTF-8 and not empty; blanks and backslashes are allowed, and "/" makes groups. Steps
/// may be negative, come in any order, and come again.
///
/// SIGTERM and `std::terminate` are handled as with a `BackgroundWriter`: what is queued is
/// written. In a fork of the process, such as a worker of a data loader, all members do nothing.
///
/// Thread-safety: several threads may call all members at once, but for `close` and the destructor,
/// which come after all other calls.
/// Owns: the file, and a thread unless a writer is given.
class LOCKSTEP_API TensorBoard {
 public:
  /// Makes the folder, and folders above it, and a file in it.
  /// Throws: `c10::Error` for options out of range, and when the folder or the file cannot be made
  /// or written.
  explicit TensorBoard(const std::filesystem::path& folder, const TensorBoardOptions& options = {});
  /// Of the rank in `group`: rank 0 writes to `folder`. On other ranks, all members check their
  /// arguments and do nothing else, unless `every_rank` is set. Nothing is sent to other ranks.
  /// Throws: as above.
  TensorBoard(const ProcessGroup& group, const std::filesystem::path& folder,
              const TensorBoardOptions& options = {});
  /// As `close`, but what goes wrong is logged. Hyper-parameters of a run that ends by an exception
  /// are shown as those of a failure.
  /// Blocks: as `close`.
  ~TensorBoard();
  TensorBoard(const TensorBoard&) = delete;
  TensorBoard& operator=(const TensorBoard&) = delete;

  /// Adds a point to the curve of a tag. NaN and infinity are points too.
  /// Throws: `c10::Error` for a tag that is empty or no UTF-8, and after `close`.
  void scalar(std::string_view tag, double value, std::int64_t step);
  /// The same with the value that a tensor of one element has now. One of a device is copied on the
  /// current stream, and written when it has arrived; the call waits for nothing, unless the
  /// device has no pinned memory or events.
  /// Throws: `c10::Error` as above, and for a tensor of several elements or of complex numbers.
  void scalar(std::string_view tag, const at::Tensor& value, std::int64_t step);

  /// Adds how the elements of a tensor are distributed. The limits of the buckets are those of
  /// PyTorch's writer, a factor of 1.1 apart, and empty buckets in a row are one. NaN and infinite
  /// elements are left out; where there are any, their number is the scalar `tag`/nonfinite.
  /// Blocks: while it counts, and until a device has sent the tensor.
  /// Throws: `c10::Error` as `scalar`, and for a tensor without elements or of complex numbers.
  void histogram(std::string_view tag, const at::Tensor& values, std::int64_t step);

  /// Adds an image.
  /// Shapes: [height, width], or [channels, height, width] with 1, 3 or 4 channels: grey, RGB,
  /// RGBA. Units: floating point from 0 to 1, or uint8 from 0 to 255. What is beyond is cut off.
  /// Blocks: while it is encoded as PNG, and until a device has sent the tensor.
  /// Throws: `c10::Error` as `scalar`, for other shapes and types, and where Lockstep was built
  /// without libpng.
  void image(std::string_view tag, const at::Tensor& image, std::int64_t step);

  /// Adds a text, which TensorBoard shows as Markdown. Bytes that are no UTF-8 are replaced.
  /// Throws: `c10::Error` as `scalar`.
  void text(std::string_view tag, std::string_view text, std::int64_t step);

  /// Adds the run to TensorBoard's table of hyper-parameters. It can be called once.
  /// `metrics`: tags of scalars whose last values the table shows.
  /// Throws: `c10::Error` for no values, for a second call, and for a name, a text or a tag that is
  /// no UTF-8 or a name or a tag that is empty or comes twice.
  void hyperparameters(const Hyperparameters& values, const std::vector<std::string>& metrics = {});

  /// Waits until all that was added before is written: TensorBoard sees it, and it survives the end
  /// of the process.
  /// Blocks: `timeout` at most.
  /// Throws: `c10::Error` when the file cannot be written, when values were lost since the last
  /// call, and when `timeout` has passed.
  void flush(std::chrono::milliseconds timeout = std::chrono::minutes(1));

  /// Writes what is left, waits until it is on the disk, and closes the file. What cannot be
  /// written at once is lost. A second call does nothing. Blocks: a minute at most. Throws: as
  /// `flush`.
  void close();

  /// The file that is written; empty where nothing is.
  [[nodiscard]] const std::filesystem::path& file() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::training
