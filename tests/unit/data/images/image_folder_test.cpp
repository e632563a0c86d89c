// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/images/image_folder.h>
#include <sys/stat.h>

#include "support/loader_test_support.h"
#include "unit/data/images/image_test_support.h"

namespace lockstep::data {
namespace {

namespace fs = std::filesystem;

class ImageFolderTest : public NothingLeftBehind {
 protected:
  void SetUp() override {
    std::string made = (fs::temp_directory_path() / "image-folder-XXXXXX").string();
    ASSERT_NE(::mkdtemp(made.data()), nullptr);
    root_ = made;
    NothingLeftBehind::SetUp();
  }
  void TearDown() override {
    NothingLeftBehind::TearDown();
    fs::remove_all(root_);
  }

  fs::path put(const std::string& name, const std::string& image = "") const {
    const auto path = root_ / name;
    fs::create_directories(path.parent_path());
    if (image.empty()) {
      std::ofstream file(path);
    } else {
      fs::copy_file(fixture(image), path);
    }
    return path;
  }
  std::string error(const ImageFolderOptions& options = {}) const {
    return message_of([&] { ImageFolder folder(root_.string(), {}, options); });
  }

  fs::path root_;
};

TEST_F(ImageFolderTest, FindsWhatTorchvisionFindsInItsOrder) {
  std::ifstream listing(fixture("folder.txt"));
  std::vector<std::string> classes;
  std::vector<std::pair<std::int64_t, std::string>> samples;
  for (std::string line; std::getline(listing, line);) {
    const auto space = line.find(' ');
    const auto kind = line.substr(0, space);
    const auto rest = line.substr(space + 1);
    if (kind == "make") put(rest);
    if (kind == "class") classes.push_back(rest);
    if (kind == "sample") {
      const auto next = rest.find(' ');
      samples.emplace_back(std::stoll(rest.substr(0, next)), rest.substr(next + 1));
    }
  }
  const ImageFolder folder(root_.string());
  EXPECT_EQ(folder.classes(), classes);
  ASSERT_EQ(folder.size(), samples.size());
  ASSERT_GT(folder.size(), 5U);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    EXPECT_EQ(folder.label(i), samples[i].first) << i;
    EXPECT_EQ(folder.describe(i), (root_ / samples[i].second).string()) << i;
  }
}

TEST_F(ImageFolderTest, NamesWhatItCannotUse) {
  EXPECT_NE(message_of([] {
              ImageFolder folder("/nowhere/at/all");
            }).find("/nowhere/at/all: the folder cannot be opened: No such file"),
            std::string::npos);
  EXPECT_NE(error().find(": holds no folder"), std::string::npos);
  put("cat/notes.txt");
  put("dog/1.jpg");
  put("eel/x.txt");
  EXPECT_NE(error().find("no image for the classes cat, eel; names of images end in .jpg, "),
            std::string::npos)
      << error();
  const ImageFolder allowed(root_.string(), {}, ImageFolderOptions().allow_empty(true));
  EXPECT_EQ(allowed.classes().size(), 3U);
  EXPECT_EQ(allowed.label(0), 1);
  const ImageFolder texts(root_.string(), {},
                          ImageFolderOptions().allow_empty(true).extensions({".txt"}));
  EXPECT_EQ(texts.size(), 2U);
  const ImageFolder capitals(root_.string(), {},
                             ImageFolderOptions().allow_empty(true).extensions({".TXT", ".Jpg"}));
  EXPECT_EQ(capitals.size(), 3U);
  EXPECT_NE(error(ImageFolderOptions().extensions({})).find("no extensions"), std::string::npos);
}

TEST_F(ImageFolderTest, AnUnreadableFolderIsNamed) {
  put("cat/1.jpg");
  const auto closed = put("cat/closed/2.jpg").parent_path();
  fs::permissions(closed, fs::perms::none);
  // Root reads every folder; somebody else does not.
  const bool is_root = ::geteuid() == 0;
  for (const auto& folder : {root_, root_ / "cat"}) fs::permissions(folder, fs::perms(0755));
  constexpr uid_t kNobody = 65534;
  if (is_root) {
    ASSERT_EQ(::seteuid(kNobody), 0);
  }
  const auto message = error();
  if (is_root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  fs::permissions(closed, fs::perms::owner_all);
  EXPECT_NE(message.find(closed.string() + ": the folder cannot be opened: Permission denied"),
            std::string::npos)
      << message;
}

TEST_F(ImageFolderTest, FollowsLinksOrRefusesThem) {
  put("cat/1.png", "rgb.png");
  put("elsewhere/dog/2.png", "rgb.png");
  fs::create_directories(root_ / "all");
  fs::create_directory_symlink(root_ / "cat", root_ / "all" / "cat");
  fs::create_directory_symlink(root_ / "elsewhere" / "dog", root_ / "all" / "dog");
  fs::create_symlink(root_ / "cat" / "1.png", root_ / "cat" / "again.png");
  const auto all = (root_ / "all").string();
  const ImageFolder followed(all);
  EXPECT_EQ(followed.classes(), (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(followed.size(), 3U);
  EXPECT_EQ(followed.get(1).data.sizes(), (std::vector<std::int64_t>{3, 13, 17}));
  const auto refuse = ImageFolderOptions().symbolic_links(SymbolicLinks::Refuse);
  EXPECT_NE(message_of([&] {
              ImageFolder folder(all, {}, refuse);
            }).find(": is a symbolic link; SymbolicLinks::Follow"),
            std::string::npos);
  fs::create_directory_symlink(root_ / "all", root_ / "cat" / "circle");
  EXPECT_NE(message_of([&] {
              ImageFolder folder(all);
            }).find("all/cat/circle: is a symbolic link to a folder above it"),
            std::string::npos);
  fs::remove(root_ / "cat" / "circle");
  fs::create_symlink(root_ / "nothing", root_ / "cat" / "broken.png");
  const ImageFolder broken(all);
  EXPECT_EQ(broken.size(), 4U);
  EXPECT_NE(message_of([&] {
              static_cast<void>(broken.get(2));
            }).find("cat/broken.png: cannot be opened: No such file"),
            std::string::npos);
}

TEST_F(ImageFolderTest, ErrorsOfSamplesNameTheFile) {
  put("cat/1.jpg");
  put("cat/2.gif.png", "rgb_420.jpg");
  const ImageFolder folder(root_.string(), ImagePipeline(RandomCrop(100)));
  const auto first = message_of([&] { static_cast<void>(folder.get(0)); });
  EXPECT_NE(first.find("cat/1.jpg: expected a JPEG or PNG file, found an empty file"),
            std::string::npos)
      << first;
  const auto second = message_of([&] { static_cast<void>(folder.get(1)); });
  EXPECT_NE(second.find("cat/2.gif.png: RandomCrop: the crop of 100 x 100"), std::string::npos)
      << second;
  EXPECT_NE(message_of([&] { static_cast<void>(folder.get(2)); }).find("index 2 is not below"),
            std::string::npos);
  std::vector<std::byte> data(8);
  EXPECT_NE(message_of([&] {
              folder.get_into(1, data, std::span(data).first(4));
            }).find("the target has 8 bytes, the destination 4"),
            std::string::npos);
}

TEST_F(ImageFolderTest, ReadsCopiesOfItself) {
  put("cat/1.png", "rgb.png");
  auto folder = std::make_unique<ImageFolder>(root_.string(), ImagePipeline(ToFloat()));
  const ImageFolder copy = *folder;
  folder.reset();
  EXPECT_EQ(copy.get(0).data.scalar_type(), torch::kFloat);
  EXPECT_EQ(copy.get(0).target.item<std::int64_t>(), 0);
}

struct Epoch {
  torch::Tensor data;
  torch::Tensor target;
};

TEST_F(ImageFolderTest, TheLoaderGivesTheSameBitsInlineAndWithWorkers) {
  const std::vector<std::string> images{"rgb_420.jpg", "progressive.jpg", "grey.jpg",   "rgb.png",
                                        "palette.png", "cmyk.jpg",        "rgb_444.jpg"};
  for (std::size_t i = 0; i < images.size(); ++i) {
    put((i % 2 == 0 ? "cat/" : "dog/") + std::to_string(i) + images[i].substr(images[i].find('.')),
        images[i]);
  }
  const ImagePipeline pipeline(RandomResizedCrop(12), RandomHorizontalFlip(),
                               ColorJitter(ColorJitterOptions().brightness(0.3).hue(0.05)),
                               Normalize({0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}),
                               RandomErasing());
  const ImageFolder folder(root_.string(), pipeline);
  ASSERT_EQ(folder.size(), images.size());
  const auto epoch = [&](std::int64_t workers, int rank) {
    const DistributedSampler sampler(folder.size(), 2, rank,
                                     DistributedSamplerOptions().shuffle(true).seed(7));
    DataLoader loader(folder, sampler, options_with(workers, 3));
    loader.set_epoch(1);
    std::vector<torch::Tensor> data;
    std::vector<torch::Tensor> target;
    for (auto& batch : loader) {
      data.push_back(batch.data.clone());
      target.push_back(batch.target.clone());
    }
    return Epoch{torch::cat(data), torch::cat(target)};
  };
  for (const int rank : {0, 1}) {
    const auto expected = epoch(0, rank);
    EXPECT_EQ(expected.data.sizes(), (std::vector<std::int64_t>{4, 3, 12, 12}));
    for (const int workers : {1, 2}) {
      const auto found = epoch(workers, rank);
      EXPECT_TRUE(torch::equal(found.data, expected.data)) << workers;
      EXPECT_TRUE(torch::equal(found.target, expected.target)) << workers;
    }
  }
}

TEST_F(ImageFolderTest, RandomNumbersAreTheSamplesOwn) {
  put("cat/1.jpg", "rgb_420.jpg");
  put("cat/2.jpg", "rgb_420.jpg");
  const ImageFolder folder(root_.string(), ImagePipeline(RandomResizedCrop(12)));
  SampleRandom a(1, 0, 0);
  SampleRandom b(1, 0, 0);
  SampleRandom other_epoch(1, 1, 0);
  const auto first = folder.get(0, a).data;
  EXPECT_TRUE(torch::equal(first, folder.get(0, b).data));
  EXPECT_FALSE(torch::equal(first, folder.get(0, other_epoch).data));
  EXPECT_FALSE(torch::equal(folder.get(0).data, folder.get(1).data));
  auto data = torch::zeros_like(first);
  auto target = torch::full({}, -1, torch::kLong);
  SampleRandom c(1, 0, 0);
  folder.get_into(0, {static_cast<std::byte*>(data.mutable_data_ptr()), data.nbytes()},
                  {static_cast<std::byte*>(target.mutable_data_ptr()), target.nbytes()}, c);
  EXPECT_TRUE(torch::equal(first, data));
  EXPECT_EQ(target.item<std::int64_t>(), 0);
}

}  // namespace
}  // namespace lockstep::data
