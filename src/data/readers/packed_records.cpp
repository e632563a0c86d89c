// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/readers/packed_records.h>

#include <algorithm>
#include <bit>
#include <system_error>
#include <utility>

#include "data/readers/packed_header.h"
#include "native/posix/atomic_file.h"

namespace lockstep::data {
namespace detail {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 20;

// Tensors are stored as they lie in memory.
void check_byte_order() {
  TORCH_CHECK(std::endian::native == std::endian::little,
              "PackedRecords: the format is for little-endian machines only");
}

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

}  // namespace

class PackedFileWriter {
 public:
  explicit PackedFileWriter(const std::string& path) : file_name_(path), file_(path) {
    buffer_.reserve(kBuffer);
  }

  void add(const torch::data::Example<>& sample) {
    check_usable();
    const auto data = packed_tensor_of(sample.data, "data");
    const auto target = packed_tensor_of(sample.target, "target");
    if (header_.count == 0) {
      const auto stride = packed_stride(data, target);
      TORCH_CHECK(stride, "PackedRecordsWriter: a sample must have from 1 to 2^63 bytes");
      header_.data = data;
      header_.target = target;
      header_.stride = *stride;
    }
    check_same(data, header_.data, "data");
    check_same(target, header_.target, "target");
    // Both before anything is written: getting at a tensor may fail, and half a record may not
    // stay.
    const auto data_values = sample.data.cpu().contiguous();
    const auto target_values = sample.target.cpu().contiguous();
    put(bytes_of(data_values));
    put(bytes_of(target_values));
    const auto padding = header_.stride - data.bytes - target.bytes;
    put(std::span(kPadding).first(static_cast<std::size_t>(padding)));
    ++header_.count;
  }

  void finish() {
    check_usable();
    TORCH_CHECK(header_.count > 0, "PackedRecordsWriter: there is no sample to write");
    flush();
    // Until all went well: what the disk has lost once it does not report twice.
    has_failed_ = true;
    file_.write(0, header_.to_bytes());
    file_.publish();
    has_failed_ = false;
    is_finished_ = true;
  }

  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(header_.count); }

 private:
  static constexpr std::array<std::byte, 8> kPadding{};

  void check_usable() const {
    TORCH_CHECK(!is_finished_, "PackedRecordsWriter: finish() has been called");
    TORCH_CHECK(!has_failed_, "PackedRecordsWriter: ", file_name_,
                ": writing has failed before; no such file can be made");
  }

  void check_same(const PackedTensor& found, const PackedTensor& first, const char* which) const {
    TORCH_CHECK(found == first, "PackedRecordsWriter: the ", which, " of sample ", header_.count,
                " is ", found.type, ' ', at::IntArrayRef(found.sizes), ", that of the first is ",
                first.type, ' ', at::IntArrayRef(first.sizes));
  }

  void put(std::span<const std::byte> bytes) {
    header_.checksum = files::crc32_of(bytes, header_.checksum);
    if (buffer_.size() + bytes.size() > kBuffer) flush();
    if (bytes.size() >= kBuffer) {
      write(bytes);
    } else {
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    }
  }

  void flush() {
    write(buffer_);
    buffer_.clear();
  }

  // One that fails may have cut a record in two.
  void write(std::span<const std::byte> bytes) {
    has_failed_ = true;
    file_.write(end_, bytes);
    has_failed_ = false;
    end_ += bytes.size();
  }

  std::string file_name_;
  native::AtomicFile file_;
  PackedHeader header_;
  std::vector<std::byte> buffer_;
  std::uint64_t end_ = PackedHeader::kBytes;
  bool is_finished_ = false;
  bool has_failed_ = false;
};

}  // namespace detail

namespace {

// What the operating system said, as an error of this library.
template <class Call>
auto translated(const Call& call) {
  try {
    return call();
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, error.what());
  }
}

}  // namespace

PackedRecordsWriter::PackedRecordsWriter(const std::string& path)
    : writer_(translated([&] { return std::make_unique<detail::PackedFileWriter>(path); })) {
  detail::check_byte_order();
}

PackedRecordsWriter::~PackedRecordsWriter() = default;

void PackedRecordsWriter::add(const torch::data::Example<>& sample) {
  translated([&] { writer_->add(sample); });
}

void PackedRecordsWriter::finish() {
  translated([&] { writer_->finish(); });
}

std::size_t PackedRecordsWriter::size() const noexcept {
  return writer_->size();
}

PackedRecords::PackedRecords(const std::string& path, const PackedRecordsOptions& options)
    : file_(std::make_shared<const files::BoundedView>(path)) {
  detail::check_byte_order();
  auto header = detail::PackedHeader::read(*file_);
  data_ = std::move(header.data);
  target_ = std::move(header.target);
  count_ = header.count;
  stride_ = header.stride;
  checksum_ = header.checksum;
  if (options.verify()) verify();
}

std::uint64_t PackedRecords::offset_of(std::size_t index) const {
  TORCH_CHECK(index < count_, "PackedRecords: index ", index, " is not below the size ", count_);
  return detail::PackedHeader::kBytes + index * stride_;
}

torch::data::Example<> PackedRecords::get(std::size_t index) const {
  static_cast<void>(offset_of(index));  // before memory is taken
  auto data = at::empty(data_.sizes, data_.type);
  auto target = at::empty(target_.sizes, target_.type);
  get_into(index, {static_cast<std::byte*>(data.mutable_data_ptr()), data.nbytes()},
           {static_cast<std::byte*>(target.mutable_data_ptr()), target.nbytes()});
  return {std::move(data), std::move(target)};
}

void PackedRecords::get_into(std::size_t index, std::span<std::byte> data,
                             std::span<std::byte> target) const {
  const auto offset = offset_of(index);
  TORCH_CHECK(data.size() == data_.bytes && target.size() == target_.bytes,
              "PackedRecords: sample has ", data_.bytes, " and ", target_.bytes,
              " bytes, the destination ", data.size(), " and ", target.size());
  const auto record = file_->bytes(offset, stride_, "a record");
  std::copy_n(record.begin(), data.size(), data.begin());
  std::copy_n(record.begin() + static_cast<std::ptrdiff_t>(data.size()), target.size(),
              target.begin());
}

void PackedRecords::files_of(std::size_t index, FileParts& parts) const {
  parts.add(file_->path(), offset_of(index), stride_);
}

std::string PackedRecords::describe(std::size_t index) const {
  return file_->path() + ": record " + std::to_string(index) + " at byte " +
         std::to_string(offset_of(index));
}

void PackedRecords::verify() const {
  const auto records = file_->bytes(detail::PackedHeader::kBytes, count_ * stride_, "the records");
  TORCH_CHECK(files::crc32_of(records) == checksum_, file_->path(),
              ": the records are damaged: their checksum is not that of the header");
}

}  // namespace lockstep::data
