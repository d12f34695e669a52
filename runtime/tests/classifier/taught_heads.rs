//! The numbers of each head that teaching saves equal its formula, written here in plain code.

use std::path::Path;

use pinhole::{Bundle, ClassText, Classifier, TaughtHead, Teacher};

/// D of the demo bundle.
const SIZE: usize = 64;
/// As in the library: penalties of the linear head.
const PENALTIES: [f64; 5] = [0.1, 0.3, 1.0, 3.0, 10.0];

type Vector = Vec<f64>;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(v: &[f64]) -> Vector {
    let norm = dot(v, v).sqrt();
    v.iter().map(|v| v / norm).collect()
}

/// The sum of the vectors times their factors.
fn sum(parts: &[(f64, &[f64])]) -> Vector {
    let value = |j: usize| parts.iter().map(|(factor, v)| factor * v[j]).sum();
    (0..SIZE).map(value).collect()
}

/// Numbers from -1 to 1 that look random.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0 >> 8) / f64::from(1 << 23) - 1.0
    }

    fn vector(&mut self) -> Vector {
        let values: Vector = (0..SIZE).map(|_| self.next()).collect();
        unit(&values)
    }
}

/// What is taught: for each class its text, if it has one, and its examples.
struct Scene {
    texts: Vec<Option<Vector>>,
    examples: Vec<(Vector, usize)>,
}

impl Scene {
    fn of(&self, class: usize) -> Vec<&Vector> {
        let own = self.examples.iter().filter(|(_, of)| *of == class);
        own.map(|(x, _)| x).collect()
    }

    fn prototype(&self, class: usize) -> Vector {
        let parts: Vec<(f64, &[f64])> = self.of(class).iter().map(|x| (1.0, &***x)).collect();
        unit(&sum(&parts))
    }

    fn row(&self, class: usize) -> Vector {
        self.texts[class]
            .clone()
            .unwrap_or_else(|| self.prototype(class))
    }

    fn classes(&self) -> usize {
        self.texts.len()
    }

    /// The linear heads by the definition: the normal equations with the intercept as an unpenalised column, for each
    /// penalty and share of the texts. Each is a row of weights and bias for each class.
    fn linear(&self) -> Vec<Vec<Vector>> {
        let own = |class| self.of(class).len() as f64;
        let weight: Vector = (self.examples.iter())
            .map(|(_, class)| self.examples.len() as f64 / self.classes() as f64 / own(*class))
            .collect();
        let target = |class: usize, i: usize| f64::from(u8::from(self.examples[i].1 == class));
        let by_text = |class: usize, i: usize| {
            let text = self.texts[class].as_ref();
            text.map_or(0.0, |text| dot(text, &self.examples[i].0))
        };
        let all = 0..self.examples.len();
        let (mut products, mut squares) = (0.0, 0.0);
        for class in 0..self.classes() {
            let total: f64 = weight.iter().sum();
            let mean = all
                .clone()
                .map(|i| weight[i] * by_text(class, i))
                .sum::<f64>()
                / total;
            for i in all.clone() {
                let s = by_text(class, i) - mean;
                products += weight[i] * s * target(class, i);
                squares += weight[i] * s * s;
            }
        }
        let mut factors = vec![0.0];
        if products > 0.0 {
            factors.push(products / squares);
        }
        let mut heads = vec![];
        for (factor, penalty) in factors.iter().flat_map(|f| PENALTIES.map(|p| (*f, p))) {
            let mut head: Vec<Vector> = (0..self.classes())
                .map(|class| {
                    let mut system = vec![vec![0.0; SIZE + 2]; SIZE + 1];
                    for i in all.clone() {
                        let mut x = self.examples[i].0.clone();
                        x.push(1.0);
                        let y = target(class, i) - factor * by_text(class, i);
                        for (a, equation) in system.iter_mut().enumerate() {
                            for b in 0..=SIZE {
                                equation[b] += weight[i] * x[a] * x[b];
                            }
                            equation[SIZE + 1] += weight[i] * x[a] * y;
                        }
                    }
                    (0..SIZE).for_each(|a| system[a][a] += penalty);
                    let mut row = solve(system);
                    if let Some(text) = &self.texts[class] {
                        row.iter_mut().zip(text).for_each(|(v, t)| *v += factor * t);
                    }
                    row
                })
                .collect();
            let size = |row: &Vector| dot(&row[..SIZE], &row[..SIZE]).sqrt() + row[SIZE].abs();
            let scale = match factor {
                0.0 => head.iter().map(size).fold(0.0, f64::max),
                factor => factor,
            };
            head.iter_mut().flatten().for_each(|v| *v /= scale);
            heads.push(head);
        }
        heads
    }

    /// The similarities of a unit vector by each head that may have been saved.
    fn expected(&self, head: TaughtHead, cache: Option<(f64, f64)>, f: &[f64]) -> Vec<Vector> {
        let classes = 0..self.classes();
        match head {
            TaughtHead::ZeroShot => {
                let texts = self.texts.iter().flatten();
                vec![texts.map(|text| dot(text, f)).collect()]
            }
            TaughtHead::Prototypes => {
                vec![
                    classes
                        .map(|class| dot(&self.prototype(class), f))
                        .collect(),
                ]
            }
            TaughtHead::Cache => {
                let (weight, sharpness) = cache.unwrap();
                let similarity = |class: usize| {
                    let terms = self.of(class).into_iter();
                    let terms = terms.map(|k| weight * (-sharpness * (1.0 - dot(k, f))).exp());
                    dot(&self.row(class), f) + terms.sum::<f64>()
                };
                vec![classes.map(similarity).collect()]
            }
            TaughtHead::Linear => {
                let answer = |row: &Vector| dot(&row[..SIZE], f) + row[SIZE];
                let heads = self.linear();
                let answers = heads.iter().map(|head| head.iter().map(answer).collect());
                answers.collect()
            }
        }
    }
}

/// Gaussian elimination with the largest pivots; the right-hand side is the last column.
fn solve(mut system: Vec<Vector>) -> Vector {
    let size = system.len();
    for pivot in 0..size {
        let largest =
            |a: &usize, b: &usize| system[*a][pivot].abs().total_cmp(&system[*b][pivot].abs());
        let best = (pivot..size).max_by(largest).unwrap();
        system.swap(pivot, best);
        let top = system[pivot].clone();
        for (_, equation) in system.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
            let factor = equation[pivot] / top[pivot];
            equation
                .iter_mut()
                .zip(&top)
                .for_each(|(v, above)| *v -= factor * above);
        }
    }
    (0..size).map(|i| system[i][size] / system[i][i]).collect()
}

/// Teaches the demo the scene, and compares the answers of the bundle that is opened again. Returns the chosen head.
fn check(name: &str, scene: &Scene, kept: &[usize]) -> TaughtHead {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo");
    let mut copy = std::process::Command::new("cp");
    assert!(
        copy.arg("-r")
            .arg(demo)
            .arg(&bundle)
            .status()
            .unwrap()
            .success()
    );
    let mut teacher = Teacher::open(&bundle, Some(1), &mut |_| {}).unwrap();
    let mut names: Vec<String> = vec![];
    for (i, class) in teacher
        .bundle()
        .manifest()
        .classes
        .clone()
        .iter()
        .enumerate()
    {
        match kept.contains(&i) {
            true => names.push(class.clone()),
            false => teacher.remove_class(class).unwrap(),
        }
    }
    for class in kept.len()..scene.classes() {
        names.push(format!("class {class}"));
        teacher.add_class(&names[class], ClassText::None).unwrap();
    }
    for (x, class) in &scene.examples {
        let x = x.iter().map(|v| *v as f32).collect();
        teacher.add_examples(&names[*class], &[x]).unwrap();
    }
    let head = teacher.save().unwrap().head;
    let classifier = Classifier::builder().threads(1).open(&bundle).unwrap();
    let manifest = classifier.manifest();
    let scale = f64::from(manifest.logit_scale);
    let cache = manifest
        .cache
        .map(|c| (f64::from(c.alpha) / scale, f64::from(c.beta)));
    let mut noise = Noise(99);
    let mut probes: Vec<Vector> = (scene.examples.iter())
        .map(|(x, _)| unit(&sum(&[(1.0, x), (0.5, &noise.vector())])))
        .collect();
    probes.push(noise.vector());
    let mut errors: Vec<f64> = vec![];
    for f in &probes {
        let embedding: Vec<f32> = f.iter().map(|v| *v as f32).collect();
        let found = classifier.similarities(&embedding).unwrap();
        let candidates = scene.expected(head, cache, f);
        errors.resize(candidates.len(), 0.0);
        for (error, expected) in errors.iter_mut().zip(&candidates) {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                *error = error.max((f64::from(*found) - expected).abs());
            }
        }
    }
    let least = errors.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(least < 1e-4, "{name}, {head}: {errors:?}");
    head
}

/// If this fails, a bundle answers by another head than the one whose accuracy was measured.
#[test]
fn saved_heads_answer_by_their_formulas() {
    let demo = Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo")).unwrap();
    let kept = [3, 20, 41];
    let texts: Vec<Option<Vector>> = kept
        .map(|class| {
            let row = &demo.head().class_embeddings[class * SIZE..][..SIZE];
            Some(row.iter().map(|v| f64::from(*v)).collect())
        })
        .to_vec();
    let text = |class: usize| texts[class].clone().unwrap();
    let mut noise = Noise(5);
    let axes: Vec<Vector> = (0..8).map(|_| noise.vector()).collect();
    let mut scene = |texts: &[Option<Vector>], x: &dyn Fn(usize, usize, &mut Noise) -> Vector| {
        let mut examples = vec![];
        for i in 0..6 * texts.len() {
            let (class, i) = (i % texts.len(), i / texts.len());
            examples.push((unit(&x(class, i, &mut noise)), class));
        }
        let texts = texts.to_vec();
        Scene { texts, examples }
    };
    let no_texts = vec![None; 3];

    let untaught = Scene {
        texts: texts.clone(),
        examples: vec![],
    };
    let mut heads = vec![check("texts alone", &untaught, &kept)];
    let around = scene(&no_texts, &|class, _, noise| {
        sum(&[(1.0, &axes[class]), (0.9, &noise.vector())])
    });
    heads.push(check("around a mean", &around, &[]));
    let far_around = scene(&no_texts, &|class, _, noise| {
        sum(&[(1.0, &axes[class]), (1.8, &noise.vector())])
    });
    heads.push(check("far around a mean", &far_around, &[]));
    // Each class is two things with nothing in common.
    let two_things = |class: usize, i: usize, noise: &mut Noise| {
        let sign = if i.is_multiple_of(2) { 1.0 } else { -1.0 };
        sum(&[(sign, &axes[class]), (0.3, &noise.vector())])
    };
    let cache = scene(&no_texts, &two_things);
    heads.push(check("two things", &cache, &[]));
    let cache = scene(&texts, &two_things);
    heads.push(check("two things with texts", &cache, &kept));
    // The classes differ little beside what all of them share.
    let shared = |class: usize, _: usize, noise: &mut Noise| {
        let (a, b) = (3.0 * noise.next(), 3.0 * noise.next());
        sum(&[(1.0, &axes[class]), (a, &axes[6]), (b, &axes[7])])
    };
    let linear = scene(&no_texts, &shared);
    heads.push(check("much in common", &linear, &[]));
    let linear = scene(&texts, &|class, i, noise| {
        sum(&[(1.0, &text(class)), (1.0, &shared(class, i, noise))])
    });
    heads.push(check("much in common with texts", &linear, &kept));
    // Prototypes by themselves are the rows that a cache without texts begins with.
    for head in [TaughtHead::ZeroShot, TaughtHead::Cache, TaughtHead::Linear] {
        assert!(heads.contains(&head), "{head}: {heads:?}");
    }
}
