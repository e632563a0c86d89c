// SPDX-License-Identifier: BSD-3-Clause
// Makes all JPEG and PNG files below a folder the same size, on all cores, before a training:
//   preprocess PICTURES OUTPUT --side 224
// writes OUTPUT/a/b.jpg.safetensors for PICTURES/a/b.jpg. A run that is killed leaves whole files
// only, and the next one goes on where it was.
#include "option_checks.h"
#include "run_program.h"

#include <lockstep/lockstep.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;

// A file and what becomes of it.
using Job = std::pair<fs::path, fs::path>;

struct Options {
  std::string pictures;
  std::string output;
  std::int64_t side = 224;
  std::int64_t workers = 2;
};

bool is_picture(const fs::path& path) {
  auto suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png";
}

// All pictures below the folder, in the order of their names.
std::vector<Job> find_jobs(const Options& options) {
  std::vector<Job> jobs;
  for (const auto& entry : fs::recursive_directory_iterator(options.pictures)) {
    if (!entry.is_regular_file() || !is_picture(entry.path())) continue;
    auto target = fs::path(options.output) / entry.path().lexically_relative(options.pictures);
    target += ".safetensors";
    jobs.emplace_back(entry.path(), std::move(target));
  }
  std::sort(jobs.begin(), jobs.end());
  return jobs;
}

// What a result says of itself: from which state of the picture it was made, and how.
std::map<std::string, std::string> origin_of(const Job& job, std::int64_t side) {
  const auto time = fs::last_write_time(job.first).time_since_epoch().count();
  return {{"side", std::to_string(side)},
          {"picture_bytes", std::to_string(fs::file_size(job.first))},
          {"picture_time", std::to_string(time)}};
}

// Files appear whole or not at all, so a file that is there is done, if it was made like this.
bool is_done(const Job& job, std::int64_t side) {
  return fs::exists(job.second) &&
         lockstep::training::read_safetensors_header(job.second).metadata == origin_of(job, side);
}

// The middle of the picture, as large a square as there is, at the size that is wanted. In a
// worker: what it needs comes as an argument, or is captured by value. May be done twice.
std::int64_t resize(const Job& job, std::int64_t side) {
  const auto origin = origin_of(job, side);  // before the picture is read: it may change meanwhile
  const auto image =
      lockstep::data::Image::from_tensor(lockstep::data::read_image(job.first.string()));
  const auto edge = std::min(image.height(), image.width());
  const auto square = lockstep::data::crop(
      image, {(image.height() - edge) / 2, (image.width() - edge) / 2, edge, edge});
  const auto small = lockstep::data::resize(square, side, side).to_tensor();
  fs::create_directories(job.second.parent_path());
  lockstep::training::save_safetensors(job.second, {{"image", small}}, origin);
  return image.pixels();
}

// Returns how many pictures could not be done.
std::int64_t resize_all(const std::vector<Job>& jobs, const Options& options) {
  // A worker that dies, of a lack of memory for example, costs one more try.
  lockstep::TaskPool pool(lockstep::TaskPoolOptions().workers(options.workers).attempts(2));
  using namespace lockstep::training;
  Progress progress(std::cout, ProgressOptions()
                                   .style(choose_progress_style(0))
                                   .steps_per_epoch(static_cast<std::int64_t>(jobs.size()))
                                   .unit("pictures"));
  progress.begin_epoch(0);
  auto results =
      pool.map(jobs, [side = options.side](const Job& job) { return resize(job, side); });
  std::int64_t failed = 0;
  std::int64_t pixels = 0;
  while (true) {
    try {
      const auto result = results.next();
      if (!result) break;
      pixels += *result;
    } catch (const lockstep::TaskError& error) {
      ++failed;
      std::cerr << jobs[error.item()].first.string() << ": " << error.original_message() << '\n';
    }
    progress.step(1, [&] { return ProgressValues{{"failed", static_cast<double>(failed)}}; });
  }
  progress.end_epoch();
  std::printf("read %.1f megapixels; %llu workers were replaced\n",
              static_cast<double>(pixels) / 1e6,
              static_cast<unsigned long long>(pool.statistics().replaced_workers));
  return failed;
}

void run(const Options& options) {
  auto jobs = find_jobs(options);
  const auto all = jobs.size();
  std::erase_if(jobs, [&](const Job& job) { return is_done(job, options.side); });
  std::printf("%zu pictures, of which %zu are done\n", all, all - jobs.size());
  std::fflush(stdout);
  if (jobs.empty()) return;
  const auto failed = resize_all(jobs, options);
  if (failed != 0) {
    throw std::runtime_error(std::to_string(failed) + " of " + std::to_string(jobs.size()) +
                             " pictures were not done");
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Makes all pictures below a folder the same size.", "preprocess");
  app.option_defaults()->always_capture_default();
  app.add_option("pictures", options.pictures, "Folder of JPEG and PNG files")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("output", options.output, "Folder for the results")->required();
  app.add_option("--side", options.side, "Pixels of each side")->check(CLI::Range(1, 16384));
  app.add_option("--workers", options.workers, "Worker processes")->check(CLI::Range(1, 1024));
  return example::run_program(app, argc, argv, [&] { run(options); });
}
