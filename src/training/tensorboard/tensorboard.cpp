// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/tensorboard.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <set>
#include <utility>

#include "concurrency/deadline.h"
#include "training/background/writer_access.h"
#include "training/tensorboard/event_file.h"
#include "training/tensorboard/event_folder.h"
#include "training/tensorboard/event_record.h"
#include "training/tensorboard/histogram.h"
#include "training/tensorboard/image_pixels.h"
#include "training/tensorboard/utf8.h"

namespace lockstep::training {
namespace {

// A queue that is full is emptied in milliseconds, unless the disk hangs.
constexpr std::chrono::seconds kFullQueueWait{1};
constexpr std::chrono::minutes kCloseTimeout{1};
// Larger records go beside the queue, by a pointer.
constexpr std::int64_t kMostQueued = 16384;
constexpr std::size_t kMostText = std::size_t{1} << 30;  // readers take records of 2 GiB

void check_options(const TensorBoardOptions& options) {
  const auto check = [](bool is_right, const char* name, auto value, const char* right) {
    TORCH_CHECK(is_right, "TensorBoardOptions: ", name, " is ", value, "; it must be ", right);
  };
  const auto interval = options.flush_interval();
  check(interval.count() >= 0 && interval <= std::chrono::seconds(1), "flush_interval",
        interval.count(), "from 0 to 1000 ms");
  check(options.queue_bytes() >= 4096 && options.queue_bytes() <= std::int64_t{1} << 30,
        "queue_bytes", options.queue_bytes(), "from 4096 to 1073741824");
  check(options.waiting_bytes() > 0, "waiting_bytes", options.waiting_bytes(), "1 or more");
  check(options.resume_at().value_or(0) >= 0, "resume_at", options.resume_at().value_or(0),
        "0 or more");
  const std::string& suffix = options.suffix();
  check(suffix.size() <= 100 && suffix.find('/') == std::string::npos &&
            suffix.find('\0') == std::string::npos,
        "suffix", "'" + suffix + "'", "a part of a file's name, of 100 characters at most");
}

std::shared_ptr<BackgroundWriter> writer_of(const TensorBoardOptions& options) {
  if (options.writer() != nullptr) return options.writer();
  return std::make_shared<BackgroundWriter>(BackgroundWriterOptions()
                                                .queue_bytes(options.queue_bytes())
                                                .batch_delay(options.flush_interval())
                                                .full_queue_wait(kFullQueueWait));
}

double seconds_now() {
  using Seconds = std::chrono::duration<double>;
  return Seconds(std::chrono::system_clock::now().time_since_epoch()).count();
}

void check_name(const char* what, std::string_view name) {
  TORCH_CHECK(!name.empty(), "TensorBoard: ", what, " is empty");
  TORCH_CHECK(is_utf8(name), "TensorBoard: ", what, " '", as_utf8(name),
              "' is no UTF-8; TensorBoard could not read it");
}

void check_elements(const char* call, std::string_view tag, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.defined(), call, ": the tensor for '", tag, "' is undefined");
  TORCH_CHECK(!tensor.is_complex(), call, ": the tensor for '", tag,
              "' has complex numbers; give its abs(), or its real and imaginary parts");
  TORCH_CHECK(!tensor.is_meta() && tensor.layout() == c10::kStrided, call, ": the tensor for '",
              tag, "' must be dense and have values");
}

void check_hyperparameters(const Hyperparameters& values, const std::vector<std::string>& metrics) {
  TORCH_CHECK(!values.empty(), "TensorBoard::hyperparameters: there are none");
  std::set<std::string_view> seen;
  for (const auto& [name, value] : values) {
    check_name("the name of a hyper-parameter", name);
    TORCH_CHECK(seen.insert(name).second, "TensorBoard::hyperparameters: '", name, "' comes twice");
    const auto* text = std::get_if<std::string>(&value.get());
    TORCH_CHECK(text == nullptr || is_utf8(*text), "TensorBoard::hyperparameters: the text of '",
                name, "' is no UTF-8");
  }
  seen.clear();
  for (const auto& tag : metrics) {
    check_name("the tag of a metric", tag);
    TORCH_CHECK(seen.insert(tag).second, "TensorBoard::hyperparameters: the metric '", tag,
                "' comes twice");
  }
}

}  // namespace

class TensorBoard::Impl {
 public:
  /// `writes`: whether anything is written.
  Impl(const std::filesystem::path& folder, const TensorBoardOptions& options, bool writes)
      : is_double_(options.double_precision()) {
    check_options(options);
    TORCH_CHECK(!folder.empty(), "TensorBoard: the path of the folder is empty");
    if (!writes) return;
    const std::string absolute = absolute_name(folder);
    auto writer = writer_of(options);
    WriterCore* core = WriterAccess::core_of(*writer);
    if (core == nullptr) return;
    std::string begin;
    put_version_event(begin, seconds_now());
    if (options.resume_at()) put_resume_events(begin, {seconds_now(), *options.resume_at()});
    NewEventFile file = make_event_file(absolute, options.suffix(), begin, core->files());
    file_ = file.path;
    state_ = std::make_shared<EventFileState>(static_cast<std::uint64_t>(options.waiting_bytes()));
    auto outlet = std::make_unique<EventFile>(
        std::move(file), begin.size(), static_cast<std::uint64_t>(core->options().kept_bytes()),
        state_, core->counters(), core->files());
    channel_ = &core->add(std::move(outlet), /*is_sink=*/false);
    most_queued_ =
        static_cast<std::size_t>(std::min(kMostQueued, core->options().queue_bytes() / 8));
    full_queue_wait_ = core->options().full_queue_wait();
    writer_ = std::move(writer);
  }

  /// Nothing where this board does not write.
  [[nodiscard]] WriterCore* core() const {
    return writer_ == nullptr ? nullptr : WriterAccess::core_of(*writer_);
  }
  [[nodiscard]] bool is_double() const noexcept { return is_double_; }
  [[nodiscard]] const std::filesystem::path& file() const noexcept { return file_; }

  void check_call(std::string_view tag) const {
    TORCH_CHECK(!is_closed_.load(std::memory_order_relaxed),
                "TensorBoard: the board is closed, and takes nothing any more");
    check_name("the tag", tag);
  }

  void add_scalar(WriterCore& core, std::string_view tag, double value, std::int64_t step) {
    const EventTime time{seconds_now(), step};
    if (tag.size() > kShortTag) {
      std::string record;
      put_scalar_event(record, time, tag, value, is_double_);
      add(core, std::move(record));
      return;
    }
    ScalarBuffer record;
    put_scalar_event(record, time, tag, value, is_double_);
    push(core, {record.data(), record.size()});
  }

  void add(WriterCore& core, std::string record) {
    if (record.size() <= most_queued_) {
      push(core, record);
      return;
    }
    ParkedRecord parked;
    parked.bytes = std::move(record);
    add(core, std::move(parked));
  }

  void add(WriterCore& core, ParkedRecord record) {
    auto number = state_->park(record);
    if (!number) {
      core.flush(Deadline::after(full_queue_wait_), channel_->outlet());
      number = state_->park(record);
    }
    if (!number) {
      state_->lose(1, "more than waiting_bytes waited to be written");
    } else if (!push(core, parked_text(*number))) {
      static_cast<void>(state_->take(*number));
    }
  }

  /// Whether an exception has come since it was made, and is not caught.
  [[nodiscard]] bool is_unwound() const { return std::uncaught_exceptions() > exceptions_; }
  [[nodiscard]] bool begin_hyperparameters() { return !has_hyperparameters_.exchange(true); }

  void flush(std::chrono::milliseconds timeout) {
    TORCH_CHECK(timeout.count() >= 0, "TensorBoard::flush: the timeout is ", timeout.count(),
                " ms; it must be 0 or more");
    WriterCore* active = core();
    if (active != nullptr) flush(*active, timeout);
  }

  /// `is_success`: how the run has ended.
  void close(bool is_success) {
    if (is_closed_.exchange(true)) return;
    WriterCore* active = core();
    if (active == nullptr) return;
    if (has_hyperparameters_.load()) {
      std::string record;
      put_session_end_event(record, {seconds_now(), 0}, is_success);
      push(*active, record);
    }
    state_->must_close.store(true);
    flush(*active, kCloseTimeout);
  }

 private:
  bool push(WriterCore& core, std::string_view text) {
    state_->queued.fetch_add(1);
    bool is_taken = false;
    try {
      is_taken = core.push({channel_, 0, logging::Level::Info, text}, true);
    } catch (...) {
      state_->queued.fetch_sub(1);
      throw;
    }
    if (is_taken) return true;
    state_->queued.fetch_sub(1);
    // Another thread may have closed the board, which waits for this record then.
    if (state_->must_close.load()) {
      static_cast<void>(
          core.flush(Deadline::after(std::chrono::milliseconds(0)), channel_->outlet()));
    }
    return false;
  }

  void flush(WriterCore& core, std::chrono::milliseconds timeout) {
    const bool is_written = core.flush(Deadline::after(timeout), channel_->outlet());
    const std::string failures = state_->take_failures();
    TORCH_CHECK(failures.empty(), "TensorBoard: ", file_.string(), ": ", failures);
    TORCH_CHECK(is_written, "TensorBoard: ", file_.string(), ": not everything is written after ",
                timeout.count(), " ms");
  }

  const bool is_double_;
  std::filesystem::path file_;
  std::shared_ptr<BackgroundWriter> writer_;  // nothing: this board does not write
  std::shared_ptr<EventFileState> state_;
  LineChannel* channel_ = nullptr;  // lives as long as the writer
  std::size_t most_queued_ = 0;
  std::chrono::milliseconds full_queue_wait_{0};
  std::atomic<bool> has_hyperparameters_{false};
  std::atomic<bool> is_closed_{false};
  const int exceptions_ = std::uncaught_exceptions();  // when it was made
};

TensorBoard::TensorBoard(const std::filesystem::path& folder, const TensorBoardOptions& options)
    : impl_(std::make_unique<Impl>(folder, options, true)) {}

TensorBoard::TensorBoard(const ProcessGroup& group, const std::filesystem::path& folder,
                         const TensorBoardOptions& options)
    : impl_(std::make_unique<Impl>(group.rank() == 0 || folder.empty()
                                       ? folder
                                       : folder / ("rank" + std::to_string(group.rank())),
                                   options, group.rank() == 0 || options.every_rank())) {}

TensorBoard::~TensorBoard() {
  try {
    impl_->close(!impl_->is_unwound());
  } catch (const c10::Error& error) {
    logging::warning(error.what_without_backtrace());
  } catch (const std::exception& error) {
    logging::warning(std::string("TensorBoard: ") + error.what());
  }
}

void TensorBoard::scalar(std::string_view tag, double value, std::int64_t step) {
  impl_->check_call(tag);
  WriterCore* core = impl_->core();
  if (core != nullptr) impl_->add_scalar(*core, tag, value, step);
}

void TensorBoard::scalar(std::string_view tag, const at::Tensor& value, std::int64_t step) {
  impl_->check_call(tag);
  check_elements("TensorBoard::scalar", tag, value);
  TORCH_CHECK(value.numel() == 1, "TensorBoard::scalar: the tensor for '", tag, "' has shape ",
              value.sizes(), "; it must have one element");
  WriterCore* core = impl_->core();
  if (core == nullptr) return;
  if (!value.is_cpu()) {
    ParkedRecord record;
    record.scalar = DeviceScalar::start(value);
    if (record.scalar) {
      record.tag = tag;
      record.time = {seconds_now(), step};
      record.is_double = impl_->is_double();
      impl_->add(*core, std::move(record));
      return;
    }
  }
  impl_->add_scalar(*core, tag, value.detach().cpu().item<double>(), step);
}

void TensorBoard::histogram(std::string_view tag, const at::Tensor& values, std::int64_t step) {
  impl_->check_call(tag);
  check_elements("TensorBoard::histogram", tag, values);
  TORCH_CHECK(values.numel() > 0, "TensorBoard::histogram: the tensor for '", tag,
              "' has no elements");
  WriterCore* core = impl_->core();
  if (core == nullptr) return;
  const EventTime time{seconds_now(), step};
  const BucketCounts counts = count_buckets(values);
  if (counts.finite() > 0) {
    std::string record;
    put_histogram_event(record, time, tag, counts.result());
    impl_->add(*core, std::move(record));
  }
  if (counts.nonfinite() > 0) {
    std::string nonfinite(tag);
    nonfinite += "/nonfinite";
    impl_->add_scalar(*core, nonfinite, static_cast<double>(counts.nonfinite()), step);
  }
}

void TensorBoard::image(std::string_view tag, const at::Tensor& image, std::int64_t step) {
  impl_->check_call(tag);
  check_elements("TensorBoard::image", tag, image);
  check_image(image);
  WriterCore* core = impl_->core();
  if (core == nullptr) return;
  const EventTime time{seconds_now(), step};
  const at::Tensor pixels = image_pixels(image);
  std::string record;
  put_image_event(record, time, tag,
                  {pixels.size(0), pixels.size(1), pixels.size(2), encode_png(pixels)});
  impl_->add(*core, std::move(record));
}

void TensorBoard::text(std::string_view tag, std::string_view text, std::int64_t step) {
  impl_->check_call(tag);
  const auto check_size = [&](std::size_t bytes) {
    TORCH_CHECK(bytes <= kMostText, "TensorBoard::text: the text for '", tag, "' has ", bytes,
                " bytes; there may be ", kMostText);
  };
  check_size(text.size());
  const auto utf8 = is_utf8(text) ? std::string(text) : as_utf8(text);
  check_size(utf8.size());  // what replaces a byte is longer
  WriterCore* core = impl_->core();
  if (core == nullptr) return;
  std::string record;
  put_text_event(record, {seconds_now(), step}, tag, utf8);
  impl_->add(*core, std::move(record));
}

void TensorBoard::hyperparameters(const Hyperparameters& values,
                                  const std::vector<std::string>& metrics) {
  impl_->check_call("_hparams_");
  check_hyperparameters(values, metrics);
  TORCH_CHECK(
      impl_->begin_hyperparameters(),
      "TensorBoard::hyperparameters: this board has its hyper-parameters; TensorBoard shows "
      "one set a run");
  WriterCore* core = impl_->core();
  if (core == nullptr) return;
  std::string record;
  put_hyperparameter_events(record, {seconds_now(), 0}, values, metrics);
  impl_->add(*core, std::move(record));
}

void TensorBoard::flush(std::chrono::milliseconds timeout) {
  impl_->flush(timeout);
}

void TensorBoard::close() {
  impl_->close(true);
}

const std::filesystem::path& TensorBoard::file() const {
  return impl_->file();
}

}  // namespace lockstep::training
