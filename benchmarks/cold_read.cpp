// SPDX-License-Identifier: BSD-3-Clause
//
// The C++ side of the cold_read benchmark: a pass over files that are not in the page cache, or
// that are, by a loader that reads ahead or not; and reads of parts of a file by each read engine.
// cold_read_driver.py starts it and reads what it prints.

#include <fcntl.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/loader/data_loader.h>
#include <lockstep/data/readers/tar_shards.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "loader_workloads.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/make_read_engine.h"
#include "photographs.h"
#include "support/page_cache.h"

namespace {

namespace data = lockstep::data;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kSkipped = 77;  ///< the exit status where nothing can be measured

struct Settings {
  std::string root;
  std::string source = "images";
  std::int64_t files = 0;
  std::int64_t workers = 0;
  std::int64_t read_ahead = 0;
  std::int64_t batch = 64;
  bool is_warm = false;
  double warm_seconds = 1;  ///< a pass over cached files is short: several are timed
  std::string engine;
  bool is_direct = false;
  std::size_t depth = 32;
  std::size_t threads = 8;
  std::size_t part = 64 << 10;
  std::size_t reads = 3000;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of this process, its threads included. Other programs hardly change it.
double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void drop(const std::vector<std::string>& paths) {
  for (const auto& path : paths) {
    const lockstep::native::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    // What is not written yet stays.
    if (!file.is_open() || ::fsync(file.get()) != 0 ||
        ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED) != 0) {
      throw std::runtime_error(path + " cannot be dropped from the page cache");
    }
  }
}

// Nothing can be measured where files stay in memory.
struct StaysInCache : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A file system in memory takes the advice and keeps all. A few files are looked at; the question
// must not itself begin to read them, as `native::is_cached` may.
void drop_from_cache(const std::vector<std::string>& paths) {
  drop(paths);
  const auto step = std::max<std::size_t>(paths.size() / 3, 1);
  for (std::size_t at = 0; at < paths.size(); at += step) {
    if (lockstep::testing::drop_from_page_cache(paths[at])) continue;
    throw StaysInCache(paths[at] + " stays in the page cache, so that no read of it is cold: " +
                       "its file system keeps files in memory, or another program reads it");
  }
}

// ---- the files

// Different photographs are few, since they take long to make; their copies are files of their own.
constexpr std::int64_t kDifferent = 48;
constexpr int kQuality = 90;
// Decoding takes long: a pass over photographs is over these.
constexpr std::int64_t kDecoded = 300;

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::string& path, const std::string& bytes) {
  const lockstep::native::FileDescriptor file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!file.is_open() ||
      ::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    throw std::runtime_error(path + " cannot be written");
  }
}

std::string tar_header(const std::string& name, std::size_t size) {
  std::string header(512, '\0');
  const auto put = [&](std::size_t at, const std::string& text) {
    header.replace(at, text.size(), text);
  };
  put(0, name);
  put(100, "0000644");
  char digits[12];
  std::snprintf(digits, sizeof(digits), "%011zo", size);
  put(124, digits);
  put(148, std::string(8, ' '));
  put(156, "0");
  put(257, std::string("ustar\00000", 8));
  unsigned sum = 0;
  for (const char byte : header) sum += static_cast<unsigned char>(byte);
  std::snprintf(digits, sizeof(digits), "%06o", sum);
  put(148, digits);
  return header;
}

// A folder of images, and an archive of the same files.
void make_files(const Settings& settings) {
  const auto templates = settings.root + "/templates";
  bench::make_photographs(templates, kDifferent, kQuality);
  std::vector<std::string> images;
  for (const auto& path : files_below(templates)) images.push_back(bytes_of(path));
  const auto archive = settings.root + "/archive.tar";
  for (std::int64_t number = 0; number < settings.files; ++number) {
    const auto& image = images[static_cast<std::size_t>(number % kDifferent)];
    const auto folder = settings.root + "/images/class" + std::to_string(number % 10);
    fs::create_directories(folder);
    const auto name = std::to_string(1000000 + number) + ".jpg";
    write(folder + "/" + name, image);
    if (number < kDecoded) {
      const auto few = settings.root + "/decoded/class" + std::to_string(number % 10);
      fs::create_directories(few);
      write(few + "/" + name, image);
    }
    const std::string padding((512 - image.size() % 512) % 512, '\0');
    write(archive, tar_header(name, image.size()) + image + padding);
  }
  write(archive, std::string(1024, '\0'));
  fs::remove_all(templates);
  // This file system alone: others of the machine may take minutes.
  const lockstep::native::FileDescriptor folder(
      ::open(settings.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.is_open() || ::syncfs(folder.get()) != 0) {
    throw std::runtime_error(settings.root + " cannot be written to the disk");
  }
}

// ---- datasets

// The bytes of a file as they are: what is left when nothing is decoded.
constexpr std::int64_t kBytes = 64 << 10;

torch::data::Example<> first_bytes(std::span<const std::byte> bytes, std::int64_t index) {
  auto data = torch::empty({kBytes}, torch::kUInt8);
  // All of them are read, as a decoder would.
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, 8);
    sum += word;
  }
  std::memcpy(data.mutable_data_ptr(), &sum, sizeof(sum));
  return {data, torch::tensor(index)};
}

struct ByteFolder {
  std::shared_ptr<const std::vector<std::string>> paths;

  torch::data::Example<> get(std::size_t index) const {
    const auto& path = (*paths)[index];
    const lockstep::native::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info {};
    if (!file.is_open() || ::fstat(file.get(), &info) != 0) {
      throw std::runtime_error(path + " cannot be opened");
    }
    std::vector<std::byte> bytes(static_cast<std::size_t>(info.st_size));
    if (::read(file.get(), bytes.data(), bytes.size()) != info.st_size) {
      throw std::runtime_error(path + " cannot be read");
    }
    return first_bytes(bytes, static_cast<std::int64_t>(index));
  }
  std::size_t size() const { return paths->size(); }
  void files_of(std::size_t index, data::FileParts& parts) const { parts.add((*paths)[index]); }
};

template <class Dataset>
nlohmann::json pass(const Dataset& dataset, const Settings& settings,
                    const std::vector<std::string>& files) {
  if (!settings.is_warm) drop_from_cache(files);
  data::DataLoader<Dataset> loader(dataset, data::DataLoaderOptions()
                                                .batch_size(settings.batch)
                                                .workers(settings.workers)
                                                .read_ahead(settings.read_ahead)
                                                .prepare_next_epoch(false)
                                                .shuffle(true));
  std::int64_t samples = 0;
  double targets = 0;
  const auto one_pass = [&](int epoch) {
    loader.set_epoch(epoch);
    targets = 0;
    for (auto& batch : loader) {
      samples += batch.target.size(0);
      targets += batch.target.sum().template item<double>();
    }
  };
  if (settings.is_warm) one_pass(0);
  samples = 0;
  const auto cpu = cpu_seconds();
  const auto start = Clock::now();
  int epoch = 1;
  do one_pass(epoch++);
  while (settings.is_warm && seconds_since(start) < settings.warm_seconds);
  const double seconds = seconds_since(start);
  return {{"samples_per_second", static_cast<double>(samples) / seconds},
          {"cpu_us_per_sample", 1e6 * (cpu_seconds() - cpu) / static_cast<double>(samples)},
          {"target_sum", targets}};
}

nlohmann::json measure_loader(const Settings& settings) {
  at::set_num_threads(1);
  if (settings.source == "tar") {
    const std::vector<std::string> archive{settings.root + "/archive.tar"};
    // The index lies beside the archive, so that opening it reads nothing of it.
    const data::TarShards shards(
        archive,
        [](const data::TarSample& sample) {
          return first_bytes(sample.at("jpg"), std::stoll(std::string(sample.key)));
        },
        data::TarShardsOptions().side_index(true));
    return pass(shards, settings, archive);
  }
  if (settings.source == "images") {
    const auto decoded = settings.root + "/decoded";
    return pass(bench::photographs(decoded), settings, files_below(decoded));
  }
  const auto files = files_below(settings.root + "/images");
  return pass(ByteFolder{std::make_shared<const std::vector<std::string>>(files)}, settings, files);
}

// ---- engines

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};

// One read after the other, without an engine.
nlohmann::json measure_pread(int file, std::byte* memory, const std::vector<std::size_t>& order,
                             std::size_t part) {
  const auto start = Clock::now();
  for (const auto number : order) {
    const auto got = ::pread(file, memory, part, static_cast<off_t>(number * part));
    if (got != static_cast<ssize_t>(part)) throw std::runtime_error("a read is cut short");
  }
  return {{"engine", "loop"},
          {"reads_per_second", static_cast<double>(order.size()) / seconds_since(start)},
          {"reads", order.size()}};
}

nlohmann::json measure_engine(const Settings& settings) {
  const auto path = settings.root + "/archive.tar";
  drop_from_cache({path});
  const lockstep::native::FileDescriptor file(
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (settings.is_direct ? O_DIRECT : 0)));
  const auto parts = static_cast<std::size_t>(fs::file_size(path)) / settings.part;
  const auto engine =
      lockstep::native::make_read_engine({.depth = settings.depth,
                                          .threads = settings.threads,
                                          .prefers_ring = settings.engine == "ring"});
  const std::unique_ptr<std::byte, Free> memory(
      static_cast<std::byte*>(std::aligned_alloc(4096, settings.depth * settings.part)));
  std::memset(memory.get(), 1, settings.depth * settings.part);
  std::vector<std::size_t> order(parts);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937_64(11));
  order.resize(std::min(order.size(), settings.reads));
  if (settings.engine == "pread") {
    return measure_pread(file.get(), memory.get(), order, settings.part);
  }
  std::size_t next = 0;
  const auto submit = [&](std::uint64_t slot) {
    if (next == order.size()) return;
    const std::span target(memory.get() + slot * settings.part, settings.part);
    if (!engine->submit(
            {slot, file.get(), path, order[next++] * settings.part, target, settings.is_direct})) {
      throw std::runtime_error("the engine takes no request");
    }
  };
  const auto start = Clock::now();
  for (std::uint64_t slot = 0; slot < settings.depth; ++slot) submit(slot);
  while (engine->in_flight() != 0) {
    const auto result = engine->reap(lockstep::Deadline::after(std::chrono::seconds(30)));
    if (!result) throw std::runtime_error("no read is finished within 30 s");
    lockstep::native::throw_if_failed(*result, path);
    submit(result->tag);
  }
  const double seconds = seconds_since(start);
  return {{"engine", engine->name()},
          {"reads_per_second", static_cast<double>(order.size()) / seconds},
          {"reads", order.size()}};
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  bool wants_description = false;
  CLI::App app("The C++ side of the cold_read benchmark");
  app.add_flag("--describe", wants_description, "Print the versions in use and stop");
  app.add_option("--root", settings.root, "Folder of the files");
  app.add_option("--make-files", settings.files, "Write so many images and stop");
  app.add_option("--source", settings.source)->check(CLI::IsMember({"images", "bytes", "tar"}));
  app.add_option("--workers", settings.workers);
  app.add_option("--read-ahead", settings.read_ahead, "Samples");
  app.add_option("--batch", settings.batch, "Samples")->check(CLI::PositiveNumber);
  app.add_flag("--warm", settings.is_warm, "The files are in the page cache");
  app.add_option("--warm-seconds", settings.warm_seconds, "Timed for at least so long");
  app.add_option("--engine", settings.engine, "Read parts of the archive instead")
      ->check(CLI::IsMember({"pread", "pool", "ring"}));
  app.add_flag("--direct", settings.is_direct, "Without the page cache");
  app.add_option("--depth", settings.depth, "Requests in flight")->check(CLI::PositiveNumber);
  app.add_option("--threads", settings.threads, "Of a pool")->check(CLI::PositiveNumber);
  app.add_option("--reads", settings.reads, "Parts")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    if (wants_description) {
      std::cout << "torch " << TORCH_VERSION << '\n';
    } else if (settings.files > 0) {
      make_files(settings);
    } else {
      const auto figures =
          settings.engine.empty() ? measure_loader(settings) : measure_engine(settings);
      std::cout << figures.dump() << '\n';
    }
  } catch (const StaysInCache& reason) {
    std::cerr << "cold_read: skipped: " << reason.what() << '\n';
    return kSkipped;
  } catch (const std::exception& error) {
    std::cerr << "cold_read: error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
